//! Which hosts a request may be for. PURE.
//!
//! # Problem
//! A web page can give its own name the address 127.0.0.1 once it is loaded (DNS rebinding), and then sends requests to whatever
//! listens on the reader's machine, as if they were to itself: it could act as an operator.
//!
//! # Pattern
//! Check the Host header: the browser says there under which name it asks.
//!
//! # Here
//! [`HostNames::check`] refuses requests without one host (RFC 9112, section 3.2), and those for a name that is not ours with 421. An address
//! cannot be rebound, so every address is taken, and `localhost`. A process that listens on other than loopback addresses is asked
//! under names that it cannot know: it takes all, unless some are set.
//!
//! # Limits
//! It says nothing about who asks.
use std::net::IpAddr;

use host::error::Refusal;
use http::request::Parts;
use http::{StatusCode, Version, header};
use tonic::Code;

use crate::problem::Problem;

/// The hosts that requests may be for.
#[derive(Clone, Debug)]
pub struct HostNames {
    /// Beside addresses and `localhost`; all names if absent.
    names: Option<Vec<String>>,
}

impl HostNames {
    /// What a process takes that listens on `address`, with these names beside.
    #[must_use]
    pub fn of(address: IpAddr, names: &[String]) -> HostNames {
        let all = names.is_empty() && !address.is_loopback();
        HostNames { names: (!all).then(|| names.iter().map(|name| name.to_ascii_lowercase()).collect()) }
    }

    /// Whether a request is for one of them.
    ///
    /// # Errors
    /// 400 if it names no host or several, 421 if it names a foreign one.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Problem> {
        let host = host(head)?;
        let known = |names: &Vec<String>| host.is_none_or(|host| is_known(host, names));
        if self.names.as_ref().is_none_or(known) {
            return Ok(());
        }
        let message = "requests for this host are not answered here; a name can be added to the setting --host-names";
        let refusal = Refusal::new(Code::InvalidArgument, "unknown_host", message).field("Host");
        Err(Problem::at(StatusCode::MISDIRECTED_REQUEST, refusal))
    }
}

/// The host that a request is for; none before HTTP/1.1, where it may be left out.
fn host(head: &Parts) -> Result<Option<&str>, Problem> {
    let wrong = |message: &str| Problem::from(Refusal::invalid("Host", message));
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(wrong("a request has one Host, and this has several"));
    }
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match first {
        Some(host) => host.to_str().map(Some).map_err(|_| wrong("Host is a name or an address, and a port")),
        None if head.version < Version::HTTP_11 => Ok(None),
        None => Err(wrong("a request has a Host, and this has none")),
    }
}

fn is_known(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn status(names: &HostNames, version: Version, uri: &str, hosts: &[&str]) -> u16 {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        names.check(&head).map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn on_a_loopback_address_only_ours_are_answered() {
        let names = HostNames::of([127, 0, 0, 1].into(), &["Shop.example".to_owned()]);
        let asked = |host| status(&names, Version::HTTP_11, "/", &[host]);
        for ours in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "a.localhost", "shop.example:80"] {
            assert_eq!(asked(ours), 200, "{ours}");
        }
        for foreign in
            ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "", ":80"]
        {
            assert_eq!(asked(foreign), 421, "{foreign}");
        }
        assert_eq!(status(&names, Version::HTTP_2, "http://evil.example/", &[]), 421);
        assert_eq!(status(&names, Version::HTTP_11, "http://evil.example/", &["localhost"]), 421);
        assert_eq!(status(&names, Version::HTTP_2, "http://localhost:1/", &[]), 200);
    }

    #[test]
    fn a_request_is_for_one_host() {
        let names = HostNames::of([0, 0, 0, 0].into(), &[]);
        assert_eq!(status(&names, Version::HTTP_11, "/", &[]), 400);
        assert_eq!(status(&names, Version::HTTP_11, "/", &["a", "b"]), 400);
        assert_eq!(status(&names, Version::HTTP_11, "/", &["whatever.example"]), 200);
        assert_eq!(status(&names, Version::HTTP_10, "/", &[]), 200);
    }
}
