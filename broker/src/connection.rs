//! One client's connection: frames in, frames out, one request at a time as in Apache Kafka (so answers keep their order).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::api;
use crate::broker::{BUDGET_UNIT_BYTES, Shared};

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Why a connection ends before the client closes it.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the request of {bytes} bytes is over the limit of {limit}")]
    RequestTooLarge { bytes: i32, limit: usize },
    #[error("a time-out while {0}")]
    TimedOut(&'static str),
    #[error("{0}")]
    Protocol(#[from] api::ProtocolError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// An answer, with the memory it holds of the fetch budget until it is sent.
#[derive(Debug, Default)]
pub struct Answer {
    /// The response frame without its length; `None` if the client wants no answer.
    pub frame: Option<BytesMut>,
    /// Released when the frame is sent.
    pub budget: Option<OwnedSemaphorePermit>,
}

/// Serves a connection until it ends or the broker stops.
pub async fn serve(shared: Arc<Shared>, mut stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let (read, mut write) = stream.split();
    let mut read = BufReader::with_capacity(READ_BUFFER_BYTES, read);
    loop {
        let next = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            next = read_frame(&shared, &mut read) => next,
        };
        let served = match next {
            Ok(None) => return,
            Ok(Some((frame, budget))) => {
                let answer = api::answer(&shared, frame, peer).await.map_err(Closed::from);
                drop(budget);
                match answer {
                    Ok(answer) => send(&shared, &mut write, answer).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match served {
            Ok(()) => {}
            Err(Closed::Io(error)) => {
                tracing::debug!(%peer, %error, "connection lost");
                return;
            }
            Err(closed) => {
                tracing::warn!(%peer, reason = %closed, "connection closed by the broker");
                return;
            }
        }
    }
}

/// The next request and its share of the memory budget; `None` at the end of the stream.
async fn read_frame(shared: &Shared, read: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<(Bytes, OwnedSemaphorePermit)>, Closed> {
    let options = &shared.options;
    let size = match timeout(options.idle_timeout, read.read_i32()).await {
        Err(_) => return Err(Closed::TimedOut("waiting for a request")),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Ok(size) => size?,
    };
    let limit = options.request_bytes_max;
    let bytes = usize::try_from(size).ok().filter(|bytes| *bytes <= limit);
    let Some(bytes) = bytes else {
        return Err(Closed::RequestTooLarge { bytes: size, limit });
    };
    let units = bytes.div_ceil(BUDGET_UNIT_BYTES) as u32;
    let budget = Arc::clone(&shared.request_budget).acquire_many_owned(units);
    let Ok(Ok(budget)) = timeout(options.io_timeout, budget).await else {
        return Err(Closed::TimedOut("waiting for memory for a request"));
    };
    let mut frame = BytesMut::with_capacity(bytes);
    let filled = timeout(options.io_timeout, async {
        while frame.len() < bytes {
            let missing = bytes - frame.len();
            if read.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    });
    match filled.await {
        Err(_) => Err(Closed::TimedOut("reading a request")),
        Ok(result) => {
            result?;
            Ok(Some((frame.freeze(), budget)))
        }
    }
}

async fn send(shared: &Shared, write: &mut (impl AsyncWriteExt + Unpin), answer: Answer) -> Result<(), Closed> {
    let Answer { frame, budget } = answer;
    let Some(frame) = frame else { return Ok(()) };
    let sent = timeout(shared.options.io_timeout, write.write_all(&frame)).await;
    drop(budget);
    match sent {
        Err(_) => Err(Closed::TimedOut("sending an answer")),
        Ok(result) => Ok(result?),
    }
}
