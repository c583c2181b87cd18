//! A TCP proxy between the platform and a part: it lets through, cuts, holds back, and loses or keeps one COMMIT.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// PostgreSQL's simple query `COMMIT`, as drivers send it: type, length, text, zero.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// How often an idle direction looks whether its connection is still wanted.
const TICK: Duration = Duration::from_millis(50);
/// How long the answer to a COMMIT is waited for that will not be handed on.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What happens to the next COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Pass = 0,
    /// It reaches the server and is carried out; the connection breaks before the answer.
    LoseAnswer = 1,
    /// It never reaches the server; the connection breaks just as well.
    LoseRequest = 2,
    /// It waits in the proxy, its transaction open, until [`Proxy::release`].
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
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(client, &state));
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

    /// Arms the loss of the next COMMIT; [`Commits::Pass`] disarms.
    pub fn lose(&self, what: Commits) {
        self.state.commits.store(what as u8, Ordering::SeqCst);
    }

    /// Whether a COMMIT waits here.
    pub fn keeps(&self) -> bool {
        self.state.keeping.load(Ordering::SeqCst)
    }

    /// Lets the COMMIT go on that waits here.
    pub fn release(&self) {
        self.state.keeping.store(false, Ordering::SeqCst);
    }

    /// COMMITs lost so far.
    pub fn lost_commits(&self) -> u64 {
        self.state.lost_commits.load(Ordering::SeqCst)
    }
}

fn serve(client: TcpStream, state: &Arc<State>) {
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
    let mut tail = Vec::new();
    if let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) {
        copy(from, to, epoch, state, |bytes, to| {
            // A message may come in two pieces.
            tail.extend_from_slice(bytes);
            let is_commit = tail.windows(COMMIT.len()).any(|window| window == COMMIT);
            let keep = if is_commit { 0 } else { tail.len().min(COMMIT.len() - 1) };
            tail.drain(..tail.len() - keep);
            let armed = if is_commit { state.commits.swap(Commits::Pass as u8, Ordering::SeqCst) } else { Commits::Pass as u8 };
            if armed == Commits::Pass as u8 {
                return to.write_all(bytes).is_ok();
            }
            if armed == Commits::Keep as u8 {
                state.keeping.store(true, Ordering::SeqCst);
                while state.keeping.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return to.write_all(bytes).is_ok();
            }
            if armed == Commits::LoseAnswer as u8 {
                swallow.store(true, Ordering::SeqCst);
                let _sent = to.write_all(bytes);
                let deadline = Instant::now() + ANSWER_MAX;
                while !answered.load(Ordering::SeqCst) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            state.lost_commits.fetch_add(1, Ordering::SeqCst);
            false
        });
    }
    for stream in [&client, &server] {
        let _closed = stream.shutdown(Shutdown::Both);
    }
    let _joined = back.join();
    state.open.fetch_sub(1, Ordering::SeqCst);
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
