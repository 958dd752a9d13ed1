//! Saying in the local network where the server is (mDNS), for programs that look for it.

use std::net::SocketAddr;

use mdns_sd::{ServiceDaemon, ServiceInfo};
use turaco_server::{Listener, Listeners};

use crate::exit::Failure;

/// What Home Assistant looks for.
const WYOMING: &str = "_wyoming._tcp.local.";

/// An announcement; it is taken back when dropped.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl Announcement {
    /// Announce the Wyoming port.
    ///
    /// # Errors
    /// A port that others do not reach, or a system that does not let anything be announced.
    pub fn of(listeners: &Listeners) -> Result<Self, Failure> {
        let port = listeners.wyoming.as_ref();
        let Some(address) = port.and_then(Listener::local_addr) else {
            return Err(Failure::usage("--zeroconf needs --wyoming-port N"));
        };
        if address.ip().is_loopback() {
            let failure = Failure::usage(format!("nobody else reaches {address}"));
            return Err(failure.hint("--host 0.0.0.0 --zeroconf listens to the local network"));
        }
        let failed = |error: mdns_sd::Error| {
            Failure::usage("cannot announce the server in the local network").caused_by(&error)
        };
        let service = service(address).map_err(failed)?;
        let name = service.get_fullname().to_owned();
        let daemon = ServiceDaemon::new().map_err(failed)?;
        daemon.register(service).map_err(failed)?;
        Ok(Self { daemon, name })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Whoever still believes in it finds nobody there.
        let _ = self.daemon.unregister(&self.name);
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = ended.recv_timeout(std::time::Duration::from_secs(1));
        }
    }
}

/// The service at `address`; on all networks if it is none of them.
fn service(address: SocketAddr) -> mdns_sd::Result<ServiceInfo> {
    let machine = machine();
    let name = format!("Turaco on {machine}");
    let host = format!("{machine}.local.");
    let properties = [("version", env!("CARGO_PKG_VERSION"))];
    let addresses = match address.ip() {
        ip if ip.is_unspecified() => String::new(),
        ip => ip.to_string(),
    };
    let service = ServiceInfo::new(
        WYOMING,
        &name,
        &host,
        addresses.as_str(),
        address.port(),
        &properties[..],
    )?;
    Ok(match address.ip().is_unspecified() {
        true => service.enable_addr_auto(),
        false => service,
    })
}

/// What this machine is called, as far as a name may say it.
fn machine() -> String {
    let named = ["HOSTNAME", "COMPUTERNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    let plain: String = named
        .trim()
        .chars()
        .take_while(|c| *c != '.')
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(40)
        .collect();
    match plain.is_empty() {
        true => "turaco".to_owned(),
        false => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_a_name_and_a_port() {
        let of = |text: &str| service(text.parse().unwrap()).unwrap();
        let named = of("192.0.2.7:10300");
        assert!(named.get_fullname().ends_with(WYOMING));
        assert_eq!(named.get_port(), 10300);
        assert!(!named.is_addr_auto());
        assert!(of("0.0.0.0:10300").is_addr_auto());
    }
}
