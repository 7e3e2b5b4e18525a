//! Databases of the simulation: the weakest that the port allows.
//!
//! # Problem
//! Code that is tested on a store which answers at once and never lies relies on it: the retry that arrives while the first
//! commit is still running is met in production only.
//!
//! # Pattern
//! A fake with faults: commits queue up and take effect later, some answers say `Unavailable` whether it happened or not, and
//! some commits that were given up happen seconds afterwards.
//!
//! # Here
//! A [`Database`] outlives the hosts; [`Database::advance`], called at every step, carries out what is due. A host reaches
//! it through a store of its own ([`Database::seen_from`]). When the host crashes, what it had handed over may or may not
//! arrive ([`Database::crashed`]).
//!
//! # Limits
//! Commits that were handed over in order are carried out in order, but for those in doubt: their caller was told that
//! nothing is known of them.
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use store::memory::Memory;
use store::wrapped::{Wrapped, Wrapping};
use store::{Commit, CommitError, CommitId, Position, ReadError, Recorded, Store, Versions};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::faults::{Class, Faults};
use crate::time::Time;
use crate::trace::Trace;

/// How seldom each fault of a store strikes, in commits or reads.
const BEFORE: u64 = 150;
const AFTER: u64 = 150;
const IN_DOUBT: u64 = 200;
const SLOW: u64 = 150;
const UNREADABLE: u64 = 1_500;
const LATE: u64 = 8;
const POISON: u64 = 40;
/// A read takes a moment once in so many times, so that others get in between.
const PAUSES: u64 = 8;

type Outcome = Result<Versions, CommitError>;

/// A database that several hosts share.
pub struct Database {
    name: &'static str,
    memory: Memory,
    faults: Faults,
    time: Time,
    trace: Trace,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Their callers were told that it is unknown whether they happened.
    in_doubt: Vec<Waiting>,
    /// What consumers were to take in and cannot, and until when.
    poison: BTreeMap<CommitId, Duration>,
}

struct Waiting {
    due: Duration,
    host: String,
    commit: Commit,
    answer: Option<oneshot::Sender<Outcome>>,
    /// It happens, and its caller is told that this is unknown.
    answer_lost: bool,
}

impl Database {
    /// An empty database.
    #[must_use]
    pub fn new(name: &'static str, faults: &Faults, time: &Time, trace: &Trace) -> Arc<Database> {
        let memory = Memory::new(time.clock(0));
        let (faults, time, trace) = (faults.clone(), time.clone(), trace.clone());
        Arc::new(Database { name, memory, faults, time, trace, queue: Mutex::default() })
    }

    /// The database itself, without queue and faults.
    #[must_use]
    pub fn truth(&self) -> &dyn Store {
        &self.memory
    }

    /// The database as a host has it.
    #[must_use]
    pub fn seen_from(self: &Arc<Database>, host: &str) -> Arc<dyn Store> {
        Arc::new(Wrapped(Access {
            database: self.clone(),
            host: host.to_owned(),
            place: format!("{host}/{}", self.name),
        }))
    }

    /// Carries out what is due by now; whether anything was.
    pub fn advance(&self) -> bool {
        let now = self.time.elapsed();
        let mut due = vec![];
        {
            let mut queue = self.queue();
            while queue.waiting.front().is_some_and(|waiting| waiting.due <= now) {
                due.extend(queue.waiting.pop_front());
            }
            let doubtful = std::mem::take(&mut queue.in_doubt);
            let (late, still): (Vec<_>, Vec<_>) = doubtful.into_iter().partition(|waiting| waiting.due <= now);
            due.extend(late);
            queue.in_doubt = still;
        }
        let any = !due.is_empty();
        for waiting in due {
            self.carry_out(waiting);
        }
        any
    }

    /// Whether nothing waits to be carried out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.waiting.is_empty() && queue.in_doubt.is_empty()
    }

    /// A host has died: of what it had handed over, some arrives and some does not.
    pub fn crashed(&self, host: &str) {
        let faults = self.faults.clone();
        self.queue()
            .waiting
            .retain(|waiting| waiting.host != host || faults.drawn("arrives", &waiting.host).is_multiple_of(2));
    }

    fn carry_out(&self, Waiting { host, commit, answer, answer_lost, .. }: Waiting) {
        let told = described(&commit);
        let outcome = self.memory.commit(commit).now_or_never().expect("the memory store answers at once");
        let how = match &outcome {
            Ok(_) if answer_lost => "happens, and its answer is lost",
            Ok(_) => "happens",
            Err(CommitError::AlreadyHandled(_)) => "had happened",
            Err(CommitError::Conflict { .. }) => "comes too late",
            Err(_) => "is malformed",
        };
        self.trace.line(&format!("{} of {host}: {told} {how}", self.name));
        let lost = || Err(CommitError::Unavailable(format!("{}: the connection was lost", self.name)));
        if let Some(answer) = answer {
            // Nobody may be waiting any more.
            let _ = answer.send(if answer_lost { lost() } else { outcome });
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit in a line of the trace.
fn described(commit: &Commit) -> String {
    let mut parts = vec![];
    for append in &commit.appends {
        let kinds: Vec<_> = append.events.iter().map(|event| event.kind.as_str()).collect();
        parts.push(format!(
            "{} {}",
            append.stream,
            if kinds.is_empty() { "as it is".to_owned() } else { kinds.join("+") }
        ));
    }
    parts.extend(commit.marks.iter().map(|mark| format!("{} {}->{}", mark.name, mark.from, mark.to)));
    format!("[{}] {}", commit.id, parts.join(", "))
}

struct Access {
    database: Arc<Database>,
    host: String,
    place: String,
}

impl Access {
    fn strikes(&self, class: Class, one_in: u64) -> Option<u64> {
        let struck = self.database.faults.strikes(class, &self.place, one_in)?;
        self.database.trace.line(&format!("FAULT {class} at {}", self.place));
        Some(struck)
    }

    /// Whether this is something that a consumer takes in and cannot: such commits have ids `<consumer>/<fact>`.
    fn is_poison(&self, id: &CommitId) -> bool {
        let taken_in = id.0.strip_prefix(self.database.name).is_some_and(|rest| rest.starts_with('/'));
        if !taken_in || self.database.faults.at_peace() {
            return false;
        }
        let now = self.database.time.elapsed();
        if let Some(until) = self.database.queue().poison.get(id) {
            return now < *until;
        }
        let struck = self.strikes(Class::Poison, POISON);
        if let Some(drawn) = struck {
            // Long enough to be parked.
            self.database.queue().poison.insert(id.clone(), now + Duration::from_millis(1_600 + drawn % 3_000));
        }
        struck.is_some()
    }

    fn unavailable(&self, after: Duration) -> BoxFuture<'static, Outcome> {
        let why = format!("{} cannot be reached", self.database.name);
        Box::pin(async move {
            sleep(after).await;
            Err(CommitError::Unavailable(why))
        })
    }
}

#[async_trait]
impl Wrapping for Access {
    fn inner(&self) -> &dyn Store {
        &self.database.memory
    }

    async fn reading(&self) -> Result<(), ReadError> {
        if self.strikes(Class::StoreRead, UNREADABLE).is_some() {
            return Err(ReadError::Unavailable(format!("{} cannot be reached", self.database.name)));
        }
        if self.database.faults.drawn("pause", &self.place).is_multiple_of(PAUSES) {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Takes its place in the queue before it returns.
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Outcome> {
        if let Err(why) = commit.check() {
            return Box::pin(std::future::ready(Err(CommitError::Malformed(why))));
        }
        let (database, now) = (&self.database, self.database.time.elapsed());
        if self.is_poison(&commit.id) {
            return Box::pin(std::future::ready(Err(CommitError::Malformed("it cannot be taken in today".to_owned()))));
        }
        if self.strikes(Class::StoreBefore, BEFORE).is_some() {
            return self.unavailable(Duration::from_millis(2));
        }
        if let Some(drawn) = self.strikes(Class::StoreInDoubt, IN_DOUBT) {
            let due = now + Duration::from_millis(10 + drawn % 3_000);
            let host = self.host.clone();
            let waiting = Waiting { due, host, commit, answer: None, answer_lost: true };
            database.queue().in_doubt.push(waiting);
            return self.unavailable(Duration::from_millis(5));
        }
        let slow = self.strikes(Class::StoreSlow, SLOW).map_or(0, |drawn| 50 + drawn % 2_500);
        let answer_lost = self.strikes(Class::StoreAfter, AFTER).is_some();
        let usual = database.faults.drawn("commit", &self.place) % 3;
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = database.queue();
            let before = queue.waiting.back().map_or(now, |last| last.due);
            let due = before.max(now + Duration::from_millis(usual + slow));
            let host = self.host.clone();
            queue.waiting.push_back(Waiting { due, host, commit, answer: Some(answer), answer_lost });
        }
        // A database that forgets a commit does so when its host has died: nobody waits here then.
        let forgotten = CommitError::Unavailable(format!("{}: the connection was lost", database.name));
        Box::pin(async move { answered.await.unwrap_or(Err(forgotten)) })
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let mut page = self.database.memory.read_all(after, limit).await?;
        if let Some(drawn) = self.strikes_quietly(Class::StoreLate, LATE, page.len()) {
            page.truncate(usize::try_from(drawn).unwrap_or(0) % page.len());
        }
        Ok(page)
    }
}

impl Access {
    /// A fault that is too frequent for the trace; only where there is something to take away.
    fn strikes_quietly(&self, class: Class, one_in: u64, there: usize) -> Option<u64> {
        (there > 0).then(|| self.database.faults.strikes(class, &self.place, one_in)).flatten()
    }
}
