//! Where work runs: `--master`.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorCode, Result};

/// The `--master` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    /// A scheduler's gRPC address, `http://host:port`.
    Cluster(String),
    /// This process, with that many threads at most.
    Local(usize),
}

impl FromStr for Master {
    type Err = Error;

    /// `chainalytics://HOST:PORT`, `local` (one thread), `local[N]` or `local[*]` (all cores), as Spark spells them.
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::new(ErrorCode::InvalidArgument, format!("master {text:?} is none of chainalytics://HOST:PORT, local, local[N], local[*]"));
        if let Some(rest) = text.strip_prefix("local") {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            return match rest {
                "" => Ok(Self::Local(1)),
                "[*]" => Ok(Self::Local(cores())),
                _ => {
                    let n = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).and_then(|n| n.parse().ok());
                    n.filter(|n: &usize| (1..=1024).contains(n)).map(Self::Local).ok_or_else(wrong)
                }
            };
        }
        let address = text.strip_prefix("chainalytics://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self::Cluster(format!("http://{address}")))
    }
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(url) => write!(f, "chainalytics://{}", url.trim_start_matches("http://")),
            Self::Local(n) => write!(f, "local[{n}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn forms() {
        assert_eq!("local".parse::<Master>().unwrap(), Master::Local(1));
        assert_eq!("local[3]".parse::<Master>().unwrap(), Master::Local(3));
        let cluster: Master = "chainalytics://h:7077".parse().unwrap();
        assert_eq!(cluster, Master::Cluster("http://h:7077".into()));
        assert_eq!(cluster.to_string(), "chainalytics://h:7077");
        for wrong in ["", "local[0]", "local[x]", "locale", "spark://h:1", "chainalytics://h", "chainalytics://:1", "chainalytics://h:99999"] {
            assert!(wrong.parse::<Master>().is_err(), "{wrong}");
        }
    }
}
