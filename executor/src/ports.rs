//! Ports of an executor. Port 0 means: take a free one and advertise it.

use std::net::{IpAddr, SocketAddr};

use chainalytics_common::{Error, ErrorCode, Result};
use tokio::net::TcpListener;

/// Resolves the configured bind host ("localhost", an address) to one address.
///
/// # Errors
/// [`ErrorCode::Config`] if the name does not resolve.
pub(crate) async fn resolve(host: &str) -> Result<IpAddr> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|e| Error::new(ErrorCode::Config, format!("cannot resolve the executor's bind host {host:?}: {e}")))?
        .collect();
    // IPv4 first: what the advertised host most likely means.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().map(SocketAddr::ip).ok_or_else(|| Error::new(ErrorCode::Config, format!("the executor's bind host {host:?} has no address")))
}

/// Binds `port` (0 = any free one).
///
/// # Errors
/// [`ErrorCode::PortInUse`] with what to do about it.
pub(crate) async fn bind(ip: IpAddr, port: u16, what: &str) -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(SocketAddr::new(ip, port)).await.map_err(|e| {
        Error::new(
            ErrorCode::PortInUse,
            format!("cannot listen on {ip}:{port} for the executor's {what}: {e}; choose another port or 0 for any free one"),
        )
    })?;
    let port = listener.local_addr().map_err(|e| Error::io(format!("cannot read the port of the executor's {what}"), e))?.port();
    Ok((listener, port))
}

/// A port that was free a moment ago, for a server that insists on binding by itself; who uses it must try again when it lost the race.
pub(crate) async fn probe(ip: IpAddr) -> Result<u16> {
    let (listener, port) = bind(ip, 0, "task service").await?;
    drop(listener);
    Ok(port)
}
