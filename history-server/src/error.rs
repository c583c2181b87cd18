//! What keeps the history server from starting or ends it.

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Somebody listens there already.
    #[error("port {port} on {host} is in use; stop whoever listens there or set another port with the key {key}")]
    PortInUse { host: String, port: u16, key: &'static str },
    /// The socket cannot be had for another reason.
    #[error("cannot listen on {host}:{port} (key {key})")]
    Bind {
        host: String,
        port: u16,
        key: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// Open to the network without protection.
    #[error(
        "{key} = {host} would open the history server to the network without TLS and a token; bind to a loopback address, or set \
         security.allow-insecure = true if the network itself is trusted"
    )]
    Insecure { host: String, key: &'static str },
    /// The HTTP server ended.
    #[error("HTTP server of the history server")]
    Http(#[source] std::io::Error),
}
