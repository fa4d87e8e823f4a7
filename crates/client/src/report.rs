//! What became of what was recorded.

/// Whether a client reaches its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// It tries to.
    #[default]
    Connecting,
    /// It does.
    Connected,
    /// It was closed.
    Closed,
}

/// What became of what was recorded since the client was made. What is in none of the counts is in
/// memory and on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether the server is reached.
    pub link: Link,
    /// How many series there are.
    pub series: usize,
    /// Requests that are durable at the server. (At one without persistence: that it has.)
    pub durable_requests: u64,
    /// Requests that are not.
    pub pending_requests: u64,
    /// Bytes of those.
    pub pending_bytes: u64,
    /// Cuts that were put off because the outbox was full. Nothing is lost by it but the exact time.
    pub late_cuts: u64,
    /// Calls that were refused here: a name or value that cannot be, a series too many, a client that was
    /// closed. Nothing of them is kept.
    pub refused_calls: u64,
    /// Folds that the server refused, such as when it knows as many series as it may.
    pub rejected_folds: u64,
    /// Requests of which nobody knows whether they were counted, because the server forgot this client
    /// while they were on their way. They are not sent again: nothing is counted twice.
    pub uncertain_requests: u64,
    /// Requests that were durable and that the server does not have any more: its data is older than what
    /// it told, or another's.
    pub reverted_requests: u64,
    /// Whether what is pending would outlive this process, if there is a spill file.
    pub spill_failing: bool,
    /// What the server says holds things up. Empty: nothing.
    pub stall: &'static str,
    /// The last thing that went wrong.
    pub problem: Option<String>,
}
