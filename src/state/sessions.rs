//! Who sends with a session, and how far: the marks that make it possible to count exactly once.
//!
//! A mark moves only with the folds of its request, under the cut, so a flush has both or neither.
//! Neither an epoch nor a mark goes down, and at any time one stream of a client can move it.

use super::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard};
use super::{Cut, Denied, Intake, State};
use model::{Fate, Mark, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many forgotten sessions are still known as such.
const MAX_FORGOTTEN: usize = 10_000;
/// A session whose stream is there is noted to be so this often in the time after which it would be
/// forgotten.
const SIGNS: u32 = 8;

/// How a client opens its session.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// The client's name.
    pub client: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// The last request that it ever sent; 0 if none.
    pub last_sent: u64,
    /// The first request that it can still send; 0 if it does not say.
    pub first_retained: u64,
}

/// Why a session does not take a request, or is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Another stream of the client took over, with this epoch.
    Fenced(u64),
    /// This request is expected.
    Gap(u64),
    /// There is no such session, and the client says that it sent something.
    Unknown,
    /// There was one, until it was silent for too long.
    Forgotten,
    /// There are as many as there may be.
    TooMany(usize),
    /// The state takes nothing now.
    Denied(Denied),
}

/// An open session.
#[derive(Debug)]
pub struct Opened {
    /// The right to send.
    pub ticket: Ticket,
    /// The last request that is folded.
    pub accepted: u64,
    /// The last one that is durable.
    pub durable: u64,
    /// Requests that the client cannot send any more and that were never folded: the first and the last.
    pub lost: Option<(u64, u64)>,
    /// The flush that must be committed before the session may be used.
    pub flush: Option<u64>,
}

/// The right of a stream, or of a call, to send for a session.
#[derive(Debug)]
pub struct Ticket {
    session: Arc<Session>,
    epoch: u64,
    /// Which of the streams; a call is none.
    stream: Option<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stream.is_some() {
            self.session.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    client: Arc<str>,
    /// How many streams it has.
    streams: AtomicUsize,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    epoch: u64,
    accepted: u64,
    durable: u64,
    seen: Duration,
    /// Whether it is no session any more.
    gone: bool,
    /// Whether it is stored at all.
    stored: bool,
    /// The stream that took over last.
    stream: u64,
    /// The flush that makes the epoch durable, while it is not.
    opening: Option<u64>,
    /// The generation in which the mark last moved, and its place among that one's marks.
    marked: (u64, usize),
}

/// A mark on its way into a flush.
pub(super) struct Marked {
    pub(super) mark: Mark,
    /// Whose it is; none's if the session is gone.
    session: Option<Arc<Session>>,
}

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions {
    book: Mutex<Book>,
    /// How many streams there ever were.
    streams: AtomicU64,
}

#[derive(Default)]
struct Book {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    /// The epochs of those that were forgotten, and who they were, the first one first.
    forgotten: HashMap<Arc<str>, u64>,
    order: VecDeque<Arc<str>>,
}

/// When something happens, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The wall's.
    pub now: Timestamp,
    /// How long the service has lived, in all its lives: no step of the wall clock moves it.
    pub lived: Duration,
}

/// How far a session is, as told to who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its epoch.
    pub epoch: u64,
    /// The last request that is folded.
    pub accepted: u64,
    /// The last one that is durable.
    pub durable: u64,
    /// When it was last heard of, by the time that the service has lived.
    pub seen: Duration,
    /// How many streams it has.
    pub streams: usize,
}

impl Sessions {
    /// Those that were stored.
    pub(super) fn new(mut stored: Vec<Mark>) -> Self {
        stored.sort_by_key(|mark| mark.seen);
        let mut book = Book::default();
        for mark in stored {
            match mark.fate {
                Fate::Kept => {
                    let progress = Progress {
                        accepted: mark.sequence,
                        durable: mark.sequence,
                        stored: true,
                        ..Progress::new(mark.epoch, mark.seen)
                    };
                    let session = Session::new(mark.client.clone(), progress);
                    book.sessions.insert(mark.client, session);
                }
                Fate::Forgotten => book.forget(mark.client, mark.epoch),
                Fate::Removed => {}
            }
        }
        Self { book: Mutex::new(book), streams: AtomicU64::default() }
    }
}

impl Book {
    fn forget(&mut self, client: Arc<str>, epoch: u64) {
        self.order.push_back(client.clone());
        self.forgotten.insert(client, epoch);
    }

    /// The session that this opens, if it may: the one that there is, or a new one.
    fn open(&mut self, hello: Hello<'_>, most: usize, at: At) -> Result<Arc<Session>, Barred> {
        if let Some(session) = self.sessions.get(hello.client) {
            return Ok(session.clone());
        }
        let forgotten = self.forgotten.get(hello.client).copied();
        match forgotten {
            Some(epoch) if hello.epoch < epoch => return Err(Barred::Fenced(epoch)),
            Some(_) if hello.last_sent > 0 => return Err(Barred::Forgotten),
            None if hello.last_sent > 0 => return Err(Barred::Unknown),
            _ if self.sessions.len() >= most => return Err(Barred::TooMany(most)),
            Some(_) => {
                self.forgotten.remove(hello.client);
                self.order.retain(|client| &**client != hello.client);
            }
            None => {}
        }
        let client: Arc<str> = hello.client.into();
        let session = Session::new(client.clone(), Progress::new(hello.epoch, at.lived));
        self.sessions.insert(client, session.clone());
        Ok(session)
    }
}

impl Progress {
    const fn new(epoch: u64, seen: Duration) -> Self {
        Self {
            epoch,
            accepted: 0,
            durable: 0,
            seen,
            gone: false,
            stored: false,
            stream: 0,
            opening: None,
            marked: (0, 0),
        }
    }
}

impl Session {
    fn new(client: Arc<str>, progress: Progress) -> Arc<Self> {
        let (streams, progress) = (AtomicUsize::new(0), Mutex::new(progress));
        Arc::new(Self { client, streams, progress })
    }

    /// Puts how far it is among the marks of the generation that is filling.
    fn mark(self: &Arc<Self>, progress: &mut Progress, fate: Fate, cut: &Cut) {
        let client = self.client.clone();
        let Progress { epoch, accepted: sequence, seen, .. } = *progress;
        let mark = Mark { client, epoch, sequence, seen, fate };
        let mut marks = cut.marks.lock();
        match progress.marked {
            (generation, place) if generation == cut.generation => marks[place].mark = mark,
            _ => {
                progress.marked = (cut.generation, marks.len());
                marks.push(Marked { mark, session: Some(self.clone()) });
            }
        }
    }
}

impl Marked {
    /// Takes note that it is stored now, by this flush.
    pub(super) fn committed(&self, flush: u64) {
        let Some(session) = &self.session else { return };
        let mut progress = session.progress.lock();
        progress.durable = progress.durable.max(self.mark.sequence);
        progress.stored = true;
        progress.opening.take_if(|opening| *opening <= flush);
    }
}

impl Ticket {
    fn admit(&self, sequence: u64) -> Result<Admission<'_>, Barred> {
        let progress = self.session.progress.lock();
        let taken_over = self.stream.is_some_and(|stream| stream != progress.stream);
        if progress.epoch != self.epoch || taken_over {
            return Err(Barred::Fenced(progress.epoch));
        }
        if progress.gone {
            return Err(Barred::Forgotten);
        }
        if sequence <= progress.accepted {
            let durable = sequence <= progress.durable;
            return Ok(Admission::Known((!durable).then_some(progress.marked.0)));
        }
        if sequence > progress.accepted + 1 {
            return Err(Barred::Gap(progress.accepted + 1));
        }
        Ok(Admission::Next(Admitted { session: &self.session, progress }))
    }

    /// The client.
    pub fn client(&self) -> &str {
        &self.session.client
    }

    /// Whether a request is one that was folded before: then the flush that it waits for, or none if it
    /// is durable.
    pub fn repeats(&self, sequence: u64) -> Result<Option<Option<u64>>, Barred> {
        Ok(match self.admit(sequence)? {
            Admission::Known(flush) => Some(flush),
            Admission::Next(_) => None,
        })
    }
}

/// What a session says to a request.
pub enum Admission<'a> {
    /// It is folded; this flush makes it durable, if it is not.
    Known(Option<u64>),
    /// It is the next.
    Next(Admitted<'a>),
}

/// A request that may be folded: nothing else of its session is, while this lives.
pub struct Admitted<'a> {
    session: &'a Arc<Session>,
    progress: MutexGuard<'a, Progress>,
}

impl Intake<'_> {
    /// Whether a request of this number may be folded, now and through this intake.
    pub fn admit<'t>(&self, ticket: &'t Ticket, sequence: u64) -> Result<Admission<'t>, Barred> {
        ticket.admit(sequence)
    }

    /// Moves the mark of a session past a request that was folded through this intake.
    pub fn done(&self, admitted: Admitted<'_>, lived: Duration) {
        let Admitted { session, mut progress } = admitted;
        progress.accepted += 1;
        progress.seen = lived;
        session.mark(&mut progress, Fate::Kept, &self.cut);
        self.cut.since.lock().get_or_insert(self.now);
    }
}

impl State {
    /// Opens a session for a stream, which takes over from the one before, or for a call.
    pub fn open_session(
        &self,
        hello: Hello<'_>,
        is_stream: bool,
        max_sessions: usize,
        at: At,
    ) -> Result<Opened, Barred> {
        let cut = self.cut.read();
        if cut.closed {
            return Err(Barred::Denied(Denied::Closed));
        }
        loop {
            let session = self.sessions.book.lock().open(hello, max_sessions, at)?;
            let mut progress = session.progress.lock();
            if progress.gone {
                continue;
            }
            if hello.epoch < progress.epoch {
                return Err(Barred::Fenced(progress.epoch));
            }
            let is_new = !progress.stored && progress.opening.is_none();
            let later = hello.epoch > progress.epoch;
            let expected = progress.accepted + 1;
            let lost =
                (hello.first_retained > expected).then(|| (expected, hello.first_retained - 1));
            progress.epoch = hello.epoch;
            progress.accepted = lost.map_or(progress.accepted, |(_, last)| last);
            progress.seen = at.lived;
            if is_new || later || lost.is_some() {
                session.mark(&mut progress, Fate::Kept, &cut);
                cut.since.lock().get_or_insert(at.now);
                progress.opening = Some(cut.generation);
            }
            let stream = is_stream.then(|| {
                session.streams.fetch_add(1, Ordering::Relaxed);
                progress.stream = 1 + self.sessions.streams.fetch_add(1, Ordering::Relaxed);
                progress.stream
            });
            let Progress { accepted, durable, opening: flush, .. } = *progress;
            drop(progress);
            let ticket = Ticket { session, epoch: hello.epoch, stream };
            return Ok(Opened { ticket, accepted, durable, lost, flush });
        }
    }

    /// How far a session is.
    pub fn session(&self, client: &str) -> Option<SessionInfo> {
        let session = self.sessions.book.lock().sessions.get(client).cloned()?;
        let progress = session.progress.lock();
        Some(SessionInfo {
            epoch: progress.epoch,
            accepted: progress.accepted,
            durable: progress.durable,
            seen: progress.seen,
            streams: session.streams.load(Ordering::Relaxed),
        })
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.book.lock().sessions.len()
    }

    /// Forgets the sessions that have no stream and were silent for so long.
    pub fn forget_silent_sessions(&self, silent: Duration, at: At) {
        let cut = self.cut.read();
        if cut.closed {
            return;
        }
        let mut book = self.sessions.book.lock();
        let mut forgotten = Vec::new();
        for session in book.sessions.values() {
            let mut progress = session.progress.lock();
            let streams = session.streams.load(Ordering::Relaxed);
            let unseen = at.lived.saturating_sub(progress.seen);
            if streams > 0 && unseen > silent / SIGNS {
                progress.seen = at.lived;
                session.mark(&mut progress, Fate::Kept, &cut);
            } else if streams == 0 && unseen > silent {
                progress.gone = true;
                session.mark(&mut progress, Fate::Forgotten, &cut);
                forgotten.push((session.client.clone(), progress.epoch));
            } else {
                continue;
            }
            cut.since.lock().get_or_insert(at.now);
        }
        for (client, epoch) in forgotten {
            book.sessions.remove(&client);
            book.forget(client, epoch);
        }
        while book.order.len() > MAX_FORGOTTEN
            && let Some(client) = book.order.pop_front()
        {
            let epoch = book.forgotten.remove(&client).unwrap_or_default();
            let mark = Mark { client, epoch, sequence: 0, seen: at.lived, fate: Fate::Removed };
            cut.marks.lock().push(Marked { mark, session: None });
        }
    }
}
