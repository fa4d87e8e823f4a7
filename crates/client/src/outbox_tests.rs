//! The outbox against a model of the server, the disk and the client's lives: whatever happens, each
//! request is counted at most once, and one that is neither counted nor held was called uncertain.

use super::*;
use crate::proto::v1;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request is cut.
    Cut,
    /// The client connects.
    Connect,
    /// The next request reaches the server.
    Send,
    /// What the server has becomes durable, and it may say so.
    Commit { told: bool },
    /// The connection breaks.
    Break,
    /// The server loses what is not durable.
    ServerCrash,
    /// The server forgets its clients.
    Forget,
    /// Another database is put in its place.
    OtherDatabase,
    /// The client's process dies; another one reads the spill file.
    ClientCrash,
    /// The spill file takes nothing from now on, or does again.
    Disk { works: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Cut),
        4 => Just(Step::Connect),
        8 => Just(Step::Send),
        3 => any::<bool>().prop_map(|told| Step::Commit { told }),
        2 => Just(Step::Break),
        2 => Just(Step::ServerCrash),
        1 => Just(Step::Forget),
        1 => Just(Step::OtherDatabase),
        2 => Just(Step::ClientCrash),
        1 => any::<bool>().prop_map(|works| Step::Disk { works }),
    ];
    proptest::collection::vec(step, 0..80)
}

/// A session as the server has it: its last request, and what it counted.
#[derive(Clone, Debug, Default)]
struct Session {
    mark: u64,
    counted: BTreeMap<u32, u32>,
}

#[derive(Debug, Default)]
struct Server {
    database: u32,
    /// In memory, and on its disk, by the client's name.
    sessions: BTreeMap<u32, Session>,
    durable: BTreeMap<u32, Session>,
    /// What this database counted for clients that it forgot.
    old: Vec<BTreeMap<u32, u32>>,
}

/// The spill file.
#[derive(Clone, Debug)]
struct File {
    client: u32,
    database: Option<u32>,
    before_first: u64,
    requests: Vec<(u64, Option<u32>)>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
struct World {
    server: Server,
    outbox: Outbox,
    client: u32,
    clients: u32,
    database: Option<u32>,
    connected: bool,
    works: bool,
    /// Whether the file lacks something.
    behind: bool,
    /// Whether the file must be written before anything is sent.
    first: bool,
    file: File,
    cut: u32,
    /// What may be missing, for a reason that was told: uncertain, or only in the memory of a process that
    /// died.
    excused: BTreeSet<u32>,
}

fn request(id: u32) -> Request {
    Request { rows: v1::Packed { refs: vec![id], ..Default::default() } }
}

/// None of one that only fills a number.
fn id(request: &Request) -> Option<u32> {
    request.rows.refs.first().copied()
}

impl World {
    fn new() -> Self {
        let file = File { client: 0, database: None, before_first: 0, requests: Vec::new() };
        Self {
            server: Server::default(),
            outbox: Outbox::default(),
            client: 0,
            clients: 1,
            database: None,
            connected: false,
            works: true,
            behind: false,
            first: false,
            file,
            cut: 0,
            excused: BTreeSet::new(),
        }
    }

    fn held(&self) -> Vec<(u64, Option<u32>)> {
        self.outbox.iter().map(|(sequence, request)| (sequence, id(request))).collect()
    }

    fn ids(&self) -> BTreeSet<u32> {
        self.held().into_iter().filter_map(|(_, id)| id).collect()
    }

    fn write(&mut self) {
        if self.works {
            self.file = File {
                client: self.client,
                database: self.database,
                before_first: self.outbox.before_first(),
                requests: self.held(),
            };
            self.first = false;
        }
        self.behind = !self.works;
    }

    fn connect(&mut self) {
        if self.first {
            self.write();
        }
        if self.first {
            return;
        }
        let (last_sent, first_retained) = self.outbox.hello();
        assert!(first_retained <= last_sent + 1);
        let sessions = &mut self.server.sessions;
        if !sessions.contains_key(&self.client) && last_sent > 0 {
            return self.renew();
        }
        let session = sessions.entry(self.client).or_default();
        session.mark = session.mark.max(first_retained - 1);
        // The epoch is durable before the welcome, and with it that there is a session.
        let stored = self.server.durable.entry(self.client).or_default();
        stored.mark = stored.mark.max(first_retained - 1);
        let durable = stored.mark;
        let numbered = self.outbox.welcome(session.mark, durable);
        self.connected = true;
        if numbered || self.database != Some(self.server.database) {
            self.database = Some(self.server.database);
            self.first = true;
            self.write();
            if self.first {
                self.disconnect();
            }
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.outbox.interrupted();
    }

    fn renew(&mut self) {
        let before = self.ids();
        let other = self.database != Some(self.server.database);
        let lost = self.outbox.renew(other);
        let after = self.ids();
        assert_eq!(before.difference(&after).count() as u64, lost.requests);
        self.excused.extend(before.difference(&after));
        (self.client, self.database) = (self.clients, None);
        self.clients += 1;
        self.connected = false;
        self.first = true;
        self.write();
    }

    fn send(&mut self) {
        if !self.connected {
            return;
        }
        let Some((sequence, request)) = self.outbox.next() else { return };
        let id = id(request);
        match self.server.sessions.get_mut(&self.client) {
            Some(session) if sequence == session.mark + 1 => {
                session.mark += 1;
                if let Some(id) = id {
                    *session.counted.entry(id).or_default() += 1;
                }
            }
            Some(session) => assert!(sequence <= session.mark, "a gap"),
            None => self.disconnect(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Cut => {
                self.outbox.push(request(self.cut));
                let (sequence, request) = self.outbox.newest(1).next().unwrap();
                if self.works && !self.behind {
                    self.file.requests.push((sequence, id(request)));
                } else {
                    self.write();
                }
                self.cut += 1;
            }
            Step::Connect if !self.connected => self.connect(),
            Step::Connect => {}
            Step::Send => self.send(),
            Step::Commit { told } => {
                self.server.durable.clone_from(&self.server.sessions);
                if told && self.connected {
                    let mark = self.server.durable.get(&self.client).map(|session| session.mark);
                    self.outbox.durable(mark.unwrap_or_default());
                }
            }
            Step::Break => self.disconnect(),
            Step::ServerCrash => {
                self.disconnect();
                self.server.sessions.clone_from(&self.server.durable);
            }
            Step::Forget => {
                self.disconnect();
                let durable = std::mem::take(&mut self.server.durable);
                self.server.sessions.clear();
                self.server.old.extend(durable.into_values().map(|session| session.counted));
            }
            Step::OtherDatabase => {
                // What the other one had, and what a client was told of it, is gone with it.
                self.excused.extend(0..self.cut);
                self.disconnect();
                let database = self.server.database + 1;
                self.server = Server { database, ..Server::default() };
            }
            Step::ClientCrash => {
                let kept: Vec<u32> = self.file.requests.iter().filter_map(|(_, id)| *id).collect();
                let lost = self.ids().into_iter().filter(|id| !kept.contains(id));
                self.excused.extend(lost);
                let requests = self.file.requests.iter();
                let left = requests.map(|(n, id)| (*n, id.map(request).unwrap_or_default()));
                self.outbox = Outbox::restored(self.file.before_first, left);
                (self.client, self.database) = (self.file.client, self.file.database);
                self.connected = false;
                // A client whose disk fails does not start.
                (self.works, self.first) = (true, false);
                self.write();
            }
            Step::Disk { works } => self.works = works,
        }
    }

    fn check(&self) {
        let mut counted: BTreeMap<u32, u32> = BTreeMap::new();
        let sessions = self.server.sessions.values().map(|session| &session.counted);
        for (id, times) in sessions.chain(&self.server.old).flatten() {
            *counted.entry(*id).or_default() += times;
        }
        assert!(counted.values().all(|times| *times == 1), "counted twice: {counted:?}");
        let held = self.ids();
        let is_there =
            |id: &u32| held.contains(id) || counted.contains_key(id) || self.excused.contains(id);
        let missing: Vec<u32> = (0..self.cut).filter(|id| !is_there(id)).collect();
        assert!(missing.is_empty(), "lost: {missing:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_counted_twice_or_lost_in_silence(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // When all is well again, everything arrives.
        world.works = true;
        world.disconnect();
        for _ in 0..3 {
            world.step(Step::Connect);
        }
        for _ in 0..world.held().len() {
            world.step(Step::Send);
        }
        world.step(Step::Commit { told: true });
        prop_assert!(world.outbox.is_empty());
        prop_assert_eq!(world.outbox.gone(), world.outbox.entered());
        world.check();
    }
}
