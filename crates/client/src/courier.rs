//! The courier: the thread that cuts, sends, and sends again until it is durable.
//!
//! A request is written to the spill file, if there is one that works, before it is sent; so no later life
//! of the client gives its number to another.

use crate::clock::now;
use crate::link::{Event, Link};
use crate::outbox::Outbox;
use crate::proto::v1::{self, Hello, IngestResponse};
use crate::registry::Registry;
use crate::report::{self, Report};
use crate::request::{Cutter, Declared, Request};
use crate::spill::{Identity, Left, Spill};
use crate::{Error, Lost};
use model::{Timestamp, Width};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

pub(crate) type Answer = oneshot::Sender<Result<(), Lost>>;

/// What the application asks for.
pub(crate) enum Command {
    /// Answer when what was recorded is durable at the server.
    Flush(Answer),
    /// Answer when what was recorded outlives this process.
    Keep(Answer),
    /// Send what there is, for so long at most, and end.
    Close(Duration, oneshot::Sender<()>),
}

pub(crate) struct Courier {
    pub(crate) registry: Arc<Registry>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) report: Arc<Mutex<Report>>,
    link: Link,
    cutter: Cutter,
    outbox: Outbox,
    max_outbox_bytes: usize,
    identity: Identity,
    name: String,
    spill: Option<Spill>,
    /// Whether the file lacks something.
    spill_behind: bool,
    /// Whether nothing may be sent before it has everything: it tells another identity, or requests that
    /// have their numbers as ones that have none, and a later life would send them again.
    spill_first: bool,
    width: Width,
    next_cut: Timestamp,
    waiting: Vec<Waiting>,
    /// When to give up, and who waits for the end.
    closing: Option<(Instant, Vec<oneshot::Sender<()>>)>,
    /// Of the open stream: folds refused so far.
    rejected: u64,
}

/// Who waits for something to be kept.
struct Waiting {
    /// How many requests there were when it was asked; none while it is not cut yet.
    entered: Option<u64>,
    /// Whether the spill file is enough.
    spilled: bool,
    answer: Answer,
}

/// For how long a client that nobody holds any more tries to get rid of what it has.
const LINGER: Duration = Duration::from_secs(5);

impl Courier {
    pub(crate) fn new(
        registry: Arc<Registry>,
        link: Link,
        settings: &crate::Settings,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, Error> {
        let width = Width::from_ms(settings.interval.as_millis() as i64);
        let width = width.map_err(|_| Error::Interval(settings.interval))?;
        let mut courier = Self {
            registry,
            commands,
            report: Arc::default(),
            link,
            cutter: Cutter::default(),
            outbox: Outbox::default(),
            max_outbox_bytes: settings.max_outbox_bytes,
            identity: Identity {
                client: fresh_name(&settings.name)?,
                epoch: 1,
                ..Default::default()
            },
            name: settings.name.clone(),
            spill: None,
            spill_behind: false,
            spill_first: false,
            width,
            next_cut: Timestamp::MIN,
            waiting: Vec::new(),
            closing: None,
            rejected: 0,
        };
        if let Some(path) = &settings.spill {
            let failed = |error| Error::Spill(path.clone(), error);
            let (spill, left) = Spill::open(path).map_err(failed)?;
            courier.spill = Some(spill);
            courier.inherit(left)?;
            courier.rewrite_spill().map_err(failed)?;
        }
        Ok(courier)
    }

    /// Goes on where an earlier life ended.
    fn inherit(&mut self, left: Left) -> Result<(), Error> {
        let Some(identity) = left.identity else { return Ok(()) };
        let mut requests = Vec::new();
        for message in left.requests {
            requests.push((message.sequence, Request::restore(message, &self.registry)?));
        }
        self.outbox = Outbox::restored(identity.durable, requests.into_iter());
        self.identity = Identity { epoch: identity.epoch + 1, ..identity };
        Ok(())
    }

    pub(crate) async fn run(mut self) {
        self.next_cut = self.width.bucket(now()).end;
        loop {
            self.settle();
            if self.is_done() {
                break;
            }
            let deadline = self.closing.as_ref().map(|(deadline, _)| *deadline);
            let sender = self.link.sender().filter(|_| self.outbox.has_next());
            let room = async {
                match sender {
                    Some(sender) => sender.reserve_owned().await,
                    None => std::future::pending().await,
                }
            };
            // Not longer than a bucket: the wall clock may be set back meanwhile.
            let cut_in = self.next_cut.since(now()).min(self.bucket());
            tokio::select! {
                command = self.commands.recv(), if self.closing.is_none() => match command {
                    Some(command) => self.obey(command),
                    None => self.close(LINGER, None),
                },
                () = tokio::time::sleep(cut_in), if self.closing.is_none() => self.cut_if_due(),
                event = self.link.event() => self.on(event),
                Ok(room) = room => self.send(room),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => break,
            }
        }
        self.end();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Flush(answer) => self.wait(answer, false),
            Command::Keep(answer) => self.wait(answer, true),
            Command::Close(within, answer) => self.close(within, Some(answer)),
        }
    }

    fn wait(&mut self, answer: Answer, spilled: bool) {
        self.waiting.push(Waiting { entered: None, spilled, answer });
        self.cut(now());
    }

    fn close(&mut self, within: Duration, answer: Option<oneshot::Sender<()>>) {
        self.registry.close();
        let deadline = Instant::now() + within;
        self.closing = Some((deadline, answer.into_iter().collect()));
        self.cut(now());
    }

    const fn bucket(&self) -> Duration {
        Duration::from_millis(self.width.as_ms() as u64)
    }

    fn cut_if_due(&mut self) {
        let now = now();
        // The wall clock may have been set back; a later cut is better than none for hours.
        let set_back = self.next_cut.since(now) > 2 * self.bucket();
        if now >= self.next_cut || set_back {
            let bucket = self.width.bucket(now);
            // What was recorded until now belongs to the bucket that ends here.
            self.cut(bucket.start.before(Duration::from_millis(1)));
            self.next_cut = bucket.end;
        }
    }

    /// Puts what the cells have into the outbox, if there is room.
    fn cut(&mut self, time: Timestamp) {
        if self.outbox.bytes() >= self.max_outbox_bytes && self.closing.is_none() {
            self.report.lock().late_cuts += 1;
            return;
        }
        let requests = self.cutter.cut(&self.registry, time);
        let count = requests.len();
        for request in requests {
            self.outbox.push(request);
        }
        if self.spill_behind {
            self.mend_spill();
        } else if let Some(spill) = &mut self.spill
            && count > 0
        {
            let cells = &self.cutter.cells;
            let written = spill.append(self.outbox.newest(count).map(|each| alone(each, cells)));
            self.spill_behind = written.is_err();
            self.spilled(written);
        }
        let entered = self.outbox.entered();
        for waiting in &mut self.waiting {
            waiting.entered.get_or_insert(entered);
        }
    }

    /// Puts right what can be, and answers who need wait no longer.
    fn settle(&mut self) {
        let uncut = self.waiting.iter().any(|waiting| waiting.entered.is_none());
        if uncut && self.outbox.bytes() < self.max_outbox_bytes {
            self.cut(now());
        }
        let live = self.outbox.len();
        // One that fails is tried again at the next cut.
        if !self.spill_behind && self.spill.as_ref().is_some_and(|spill| spill.is_stale(live)) {
            self.mend_spill();
        }
        let (gone, kept) = (self.outbox.gone(), self.spill.is_some() && !self.spill_behind);
        let is_done = |waiting: &mut Waiting| {
            let spilled = waiting.spilled && kept;
            waiting.entered.is_some_and(|entered| spilled || entered <= gone)
        };
        for waiting in self.waiting.extract_if(.., is_done) {
            _ = waiting.answer.send(Ok(()));
        }
        let mut report = self.report.lock();
        report.series = self.registry.len();
        report.pending_requests = self.outbox.entered() - self.outbox.gone();
        report.pending_bytes = self.outbox.bytes() as u64;
        report.spill_failing = self.spill_behind;
    }

    fn rewrite_spill(&mut self) -> std::io::Result<()> {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let identity = Identity { durable: self.outbox.before_first(), ..self.identity.clone() };
        let cells = &mut self.cutter.cells;
        self.registry.append_new(cells);
        let written = spill.rewrite(&identity, self.outbox.iter().map(|each| alone(each, cells)));
        self.spill_behind = written.is_err();
        self.spill_first &= self.spill_behind;
        written
    }

    fn mend_spill(&mut self) {
        let written = self.rewrite_spill();
        self.spilled(written);
    }

    fn spilled(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            self.complain(format!("the spill file: {error}"));
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Due => {
                if self.spill_first {
                    self.mend_spill();
                }
                if self.spill_first {
                    return self.link.rest();
                }
                let (last_sent, first_retained) = self.outbox.hello();
                let Identity { client, epoch, .. } = self.identity.clone();
                self.link.open(Hello { client_id: client, epoch, last_sent, first_retained });
            }
            Event::Opened => self.rejected = 0,
            Event::Ack(ack) => self.acknowledged(ack),
            Event::Over(status) => self.interrupted(status),
        }
    }

    fn acknowledged(&mut self, ack: IngestResponse) {
        let stall = match ack.stall() {
            v1::Stall::Unspecified => "",
            v1::Stall::StorageFailing => "the server's storage takes nothing",
            v1::Stall::StorageSlow => "the server's storage is slow",
            v1::Stall::MemoryFull => "the server's memory is full",
        };
        // What is durable leaves, and with it what the rejection is about.
        let problem = match (ack.rejections.last(), ack.warnings.last()) {
            (Some(rejection), _) => Some(self.name_rejected(rejection)),
            (None, Some(warning)) => Some(format!("the server warns: {warning}")),
            (None, None) => None,
        };
        let before = self.outbox.gone();
        if let Some(welcome) = ack.welcome {
            self.welcomed(&welcome);
        }
        self.outbox.durable(ack.durable_through);
        let mut report = self.report.lock();
        report.stall = stall;
        report.durable_requests += self.outbox.gone() - before;
        report.rejected_folds += ack.rejected_count.saturating_sub(self.rejected);
        self.rejected = ack.rejected_count;
        drop(report);
        if let Some(problem) = problem {
            self.complain(problem);
        }
    }

    fn name_rejected(&self, rejection: &v1::Rejection) -> String {
        let slot = self.outbox.slot(rejection.sequence, rejection.index as usize);
        let series = slot.and_then(|slot| self.cutter.cells.get(slot)).map(|cell| &cell.series);
        let name = series.map(|series| format!(" of {}/{}", series.component, series.name));
        format!("the server refused a fold{}: {}", name.unwrap_or_default(), rejection.message)
    }

    fn welcomed(&mut self, welcome: &v1::Welcome) {
        let mut report = self.report.lock();
        report.link = report::Link::Connected;
        if welcome.lost_from > 0 {
            report.reverted_requests += welcome.lost_to + 1 - welcome.lost_from;
        }
        drop(report);
        self.link.welcomed();
        let is_numbered = self.outbox.welcome(welcome.accepted_through, welcome.durable_through);
        let is_other = self.identity.incarnation != welcome.incarnation;
        if is_other {
            self.identity.incarnation.clone_from(&welcome.incarnation);
        }
        if is_numbered || is_other {
            self.spill_first = self.spill.is_some();
            self.mend_spill();
            if self.spill_first {
                self.outbox.interrupted();
                self.link.rest();
            }
        }
    }

    fn send(&mut self, room: mpsc::OwnedPermit<v1::IngestRequest>) {
        let Some(declared) = self.link.declared() else { return };
        let Some((sequence, request)) = self.outbox.next() else { return };
        room.send(declared.message(sequence, request, &self.cutter.cells));
    }

    fn interrupted(&mut self, status: Option<Status>) {
        self.outbox.interrupted();
        let mut report = self.report.lock();
        report.link = report::Link::Connecting;
        drop(report);
        let Some(status) = status else { return self.link.rest() };
        let no_session = ["SESSION_UNKNOWN", "SESSION_FORGOTTEN", "FENCED"];
        match status.get_details_error_info() {
            Some(info) if no_session.contains(&&*info.reason) => {
                self.renew(info.metadata.get("incarnation"));
            }
            _ => self.link.rest(),
        }
        self.complain(format!("the stream ended: {}", status.message()));
    }

    /// Begins a new session, with what can still be sent without counting anything twice.
    fn renew(&mut self, incarnation: Option<&String>) {
        // Before the first welcome nothing was sent.
        let other = self.identity.incarnation.is_empty()
            || incarnation.is_some_and(|incarnation| *incarnation != self.identity.incarnation);
        let before = self.outbox.before_first();
        let uncertain = self.outbox.renew(other);
        for waiting in self.waiting.extract_if(.., |waiting| {
            uncertain.requests > 0 && waiting.entered.is_some_and(|it| it <= uncertain.through)
        }) {
            _ = waiting.answer.send(Err(Lost::Uncertain));
        }
        let mut report = self.report.lock();
        report.uncertain_requests += uncertain.requests;
        report.reverted_requests += if other { before } else { 0 };
        drop(report);
        match fresh_name(&self.name) {
            Ok(client) => {
                self.identity = Identity { client, epoch: 1, ..Default::default() };
                self.spill_first = self.spill.is_some();
                self.link.hurry();
            }
            Err(_) => self.link.rest(),
        }
    }

    fn complain(&self, problem: String) {
        let mut report = self.report.lock();
        if report.problem.as_ref() != Some(&problem) {
            tracing::warn!(client = self.identity.client, "{problem}");
            report.problem = Some(problem);
        }
    }

    /// Whether it is closed and has nothing left to do.
    fn is_done(&mut self) -> bool {
        if self.closing.is_none() {
            return false;
        }
        if self.outbox.is_sent() {
            self.link.finish();
        }
        self.outbox.is_empty()
    }

    fn end(mut self) {
        self.mend_spill();
        let late = self.cutter.cut(&self.registry, now());
        let folds = late.iter().map(|request| request.rows.refs.len()).sum();
        self.registry.refuse_late(folds);
        // Whoever waits for the end may open it at once.
        drop(self.spill.take());
        self.report.lock().link = report::Link::Closed;
        for waiting in self.waiting.drain(..) {
            _ = waiting.answer.send(Err(Lost::Closed));
        }
        for answer in self.closing.into_iter().flat_map(|(_, answers)| answers) {
            _ = answer.send(());
        }
    }
}

/// A request with the declarations of all its series.
fn alone(
    (sequence, request): (u64, &Request),
    cells: &[Arc<crate::cell::Cell>],
) -> v1::IngestRequest {
    Declared::default().message(sequence, request, cells)
}

/// A name that no other client has.
fn fresh_name(name: &str) -> Result<String, Error> {
    const LONGEST: usize = 150;
    if name.len() > LONGEST {
        return Err(Error::Name(model::NameError::TooLong(name.len())));
    }
    model::check_name(name).map_err(Error::Name)?;
    let number = getrandom::u64().map_err(|error| Error::Random(error.to_string()))?;
    Ok(format!("{name}-{number:016x}"))
}
