//! A TCP proxy between the platform and a part: it lets through, cuts, holds back, and loses or keeps one commit of a catalog.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// PostgreSQL's simple query `COMMIT`, as drivers send it: type, length, text, zero.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// A request of Iceberg's REST protocol longer than this is not waited for as a whole.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// How often an idle direction looks whether its connection is still wanted.
const TICK: Duration = Duration::from_millis(50);
/// How long the answer to a commit is waited for that will not be handed on.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What goes through, as far as the proxy must know to tell a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// PostgreSQL's protocol, or any other: there are no commits then.
    Postgres,
    /// Iceberg's REST protocol: a POST to a table, or to `transactions/commit`.
    Rest,
}

/// What happens to the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Pass = 0,
    /// It reaches the server and is carried out; the connection breaks before the answer.
    LoseAnswer = 1,
    /// It never reaches the server; the connection breaks just as well.
    LoseRequest = 2,
    /// It waits in the proxy until [`Proxy::release`]: with PostgreSQL its transaction is open meanwhile, at a REST catalog nothing has happened yet.
    Keep = 3,
}

#[derive(Default)]
struct State {
    refuse: AtomicBool,
    hold: AtomicBool,
    /// Connections of an earlier epoch are to be cut.
    epoch: AtomicU64,
    commits: AtomicU8,
    lost_commits: AtomicU64,
    keeping: AtomicBool,
    open: AtomicU64,
    upstream: AtomicU16,
}

pub struct Proxy {
    state: Arc<State>,
    pub port: u16,
}

impl Proxy {
    /// A proxy on a free port; [`Self::lead_to`] tells where it leads.
    pub fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(client, speaks, &state));
            }
        });
        Self { state, port }
    }

    pub fn lead_to(&self, port: u16) {
        self.state.upstream.store(port, Ordering::SeqCst);
    }

    /// Cuts all connections and takes no new ones until [`Self::mend`]. How many were cut.
    pub fn cut(&self) -> u64 {
        let open = self.state.open.load(Ordering::SeqCst);
        self.state.refuse.store(true, Ordering::SeqCst);
        self.state.epoch.fetch_add(1, Ordering::SeqCst);
        open
    }

    /// Nothing goes through any more, but nobody is told, until [`Self::mend`]. How many connections are held.
    pub fn hold(&self) -> u64 {
        self.state.hold.store(true, Ordering::SeqCst);
        self.state.open.load(Ordering::SeqCst)
    }

    pub fn mend(&self) {
        self.state.refuse.store(false, Ordering::SeqCst);
        self.state.hold.store(false, Ordering::SeqCst);
    }

    /// Arms the loss of the next commit; [`Commits::Pass`] disarms.
    pub fn lose(&self, what: Commits) {
        self.state.commits.store(what as u8, Ordering::SeqCst);
    }

    /// Whether a commit waits here.
    pub fn keeps(&self) -> bool {
        self.state.keeping.load(Ordering::SeqCst)
    }

    /// Lets the commit go on that waits here.
    pub fn release(&self) {
        self.state.keeping.store(false, Ordering::SeqCst);
    }

    /// Commits lost so far.
    pub fn lost_commits(&self) -> u64 {
        self.state.lost_commits.load(Ordering::SeqCst)
    }
}

fn serve(client: TcpStream, speaks: Speaks, state: &Arc<State>) {
    if state.refuse.load(Ordering::SeqCst) {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.upstream.load(Ordering::SeqCst))) else { return };
    let epoch = state.epoch.load(Ordering::SeqCst);
    state.open.fetch_add(1, Ordering::SeqCst);
    for stream in [&client, &server] {
        let _set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(TICK)));
    }
    let swallow = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicBool::new(false));
    let back = {
        let (from, to) = (server.try_clone(), client.try_clone());
        let (state, swallow, answered) = (Arc::clone(state), Arc::clone(&swallow), Arc::clone(&answered));
        std::thread::spawn(move || {
            if let (Ok(from), Ok(to)) = (from, to) {
                copy(from, to, epoch, &state, |bytes, to| {
                    if swallow.load(Ordering::SeqCst) {
                        answered.store(true, Ordering::SeqCst);
                        return true;
                    }
                    to.write_all(bytes).is_ok()
                });
            }
        })
    };
    // Whether the connection goes on.
    let pass = |piece: &[u8], is_commit: bool, to: &mut TcpStream| {
        let armed = if is_commit { state.commits.swap(Commits::Pass as u8, Ordering::SeqCst) } else { Commits::Pass as u8 };
        if armed == Commits::Pass as u8 {
            return to.write_all(piece).is_ok();
        }
        if armed == Commits::Keep as u8 {
            state.keeping.store(true, Ordering::SeqCst);
            while state.keeping.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return to.write_all(piece).is_ok();
        }
        if armed == Commits::LoseAnswer as u8 {
            swallow.store(true, Ordering::SeqCst);
            let _sent = to.write_all(piece);
            let deadline = Instant::now() + ANSWER_MAX;
            while !answered.load(Ordering::SeqCst) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        state.lost_commits.fetch_add(1, Ordering::SeqCst);
        false
    };
    let mut messages = Messages::new(speaks);
    if let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) {
        copy(from, to, epoch, state, |bytes, to| messages.take(bytes).into_iter().all(|(piece, is_commit)| pass(&piece, is_commit, to)));
    }
    for stream in [&client, &server] {
        let _closed = stream.shutdown(Shutdown::Both);
    }
    let _joined = back.join();
    state.open.fetch_sub(1, Ordering::SeqCst);
}

/// What a client says, cut so that a commit can be told from the rest.
struct Messages {
    speaks: Speaks,
    /// PostgreSQL: the end of what went before. REST: the request that is not whole yet.
    kept: Vec<u8>,
}

impl Messages {
    fn new(speaks: Speaks) -> Self {
        Self { speaks, kept: Vec::new() }
    }

    /// Pieces to hand on, and whether each is a commit.
    fn take(&mut self, bytes: &[u8]) -> Vec<(Vec<u8>, bool)> {
        self.kept.extend_from_slice(bytes);
        match self.speaks {
            Speaks::Postgres => {
                // A message may come in two pieces.
                let is_commit = self.kept.windows(COMMIT.len()).any(|window| window == COMMIT);
                let keep = if is_commit { 0 } else { self.kept.len().min(COMMIT.len() - 1) };
                self.kept.drain(..self.kept.len() - keep);
                vec![(bytes.to_vec(), is_commit)]
            }
            Speaks::Rest => {
                let mut whole = Vec::new();
                while let Some(length) = request_length(&self.kept) {
                    let request: Vec<u8> = self.kept.drain(..length).collect();
                    let is_commit = is_rest_commit(&request);
                    whole.push((request, is_commit));
                }
                whole
            }
        }
    }
}

/// Length of the HTTP request that these bytes begin with, if it is all there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return (bytes.len() > REQUEST_BYTES_MAX).then_some(bytes.len());
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |length| length.trim().parse().unwrap());
    (bytes.len() >= end + 4 + body).then_some(end + 4 + body)
}

fn is_rest_commit(request: &[u8]) -> bool {
    let line = String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let Some(path) = line.strip_prefix("POST ").and_then(|rest| rest.split([' ', '?']).next()) else { return false };
    path.ends_with("/transactions/commit") || path.split_once("/tables/").is_some_and(|(_, table)| !table.contains('/'))
}

/// Copies one direction until either end closes, the connection is cut, or `pass` says no; then closes both.
fn copy(mut from: TcpStream, mut to: TcpStream, epoch: u64, state: &State, mut pass: impl FnMut(&[u8], &mut TcpStream) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if state.epoch.load(Ordering::SeqCst) != epoch {
            break;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                while state.hold.load(Ordering::SeqCst) && state.epoch.load(Ordering::SeqCst) == epoch {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if state.epoch.load(Ordering::SeqCst) != epoch || !pass(&buffer[..len], &mut to) {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _closed = from.shutdown(Shutdown::Both);
    let _closed = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_told_wherever_the_bytes_are_cut() {
        let commit = b"POST /v1/namespaces/n/tables/t HTTP/1.1\r\nContent-Length: 4\r\n\r\n{  }";
        let others = ["POST /v1/namespaces/n/tables HTTP/1.1", "GET /v1/namespaces/n/tables/t HTTP/1.1", "POST /v1/oauth/tokens HTTP/1.1"];
        let mut all: Vec<u8> = others.iter().flat_map(|line| format!("{line}\r\nHost: x\r\n\r\n").into_bytes()).collect();
        all.extend_from_slice(commit);
        all.extend_from_slice(b"POST /v1/transactions/commit?x=y HTTP/1.1\r\n\r\n");
        for cut in 0..all.len() {
            let mut messages = Messages::new(Speaks::Rest);
            let seen: Vec<_> = [&all[..cut], &all[cut..]].into_iter().flat_map(|bytes| messages.take(bytes)).collect();
            assert_eq!(seen.iter().map(|(_, is_commit)| *is_commit).collect::<Vec<_>>(), [false, false, false, true, true]);
            assert_eq!(seen.into_iter().flat_map(|(piece, _)| piece).collect::<Vec<_>>(), all);
        }
        let sql = [b"Q\0\0\0\x09BEGIN".as_slice(), COMMIT].concat();
        for cut in 0..sql.len() {
            let mut messages = Messages::new(Speaks::Postgres);
            let seen: Vec<_> = [&sql[..cut], &sql[cut..]].into_iter().flat_map(|bytes| messages.take(bytes)).collect();
            assert_eq!(seen.iter().filter(|(_, is_commit)| *is_commit).count(), 1, "cut at {cut}");
        }
    }
}
