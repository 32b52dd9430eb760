//! What no setting can judge alone: those that contradict each other.

use super::{Fault, parse::size_text, source::Sources, table::Config};

/// Adds a fault for every contradiction, at the place of the setting that has to give way.
pub(crate) fn check(config: &Config, sources: &Sources, faults: &mut Vec<Fault>) {
    if config.max_request_bytes > config.max_buffered_bytes {
        let message = format!(
            "one body of {} does not fit into OBLETH_MAX_BUFFERED_BYTES ({}); lower the one or raise the other",
            size_text(config.max_request_bytes),
            size_text(config.max_buffered_bytes),
        );
        faults.push(Fault::new(sources.place("MAX_REQUEST_BYTES"), message));
    }
    if config.upstream_api_key.is_some() && config.upstream_base_url.is_none() {
        let message = "has no backend to go to; set OBLETH_UPSTREAM_BASE_URL too, or leave it out";
        faults.push(Fault::new(sources.place("UPSTREAM_API_KEY"), message));
    }
    if config.clickhouse_password.is_some() && config.clickhouse_url.is_none() {
        let message = "has no server to go to; set OBLETH_CLICKHOUSE_URL too, or leave it out";
        faults.push(Fault::new(sources.place("CLICKHOUSE_PASSWORD"), message));
    }
    if config.alert_webhook_secret.is_some() && config.alert_webhook_url.is_none() {
        let message = "signs nothing; set OBLETH_ALERT_WEBHOOK_URL too, or leave it out";
        faults.push(Fault::new(sources.place("ALERT_WEBHOOK_SECRET"), message));
    }
    if let Some(base) = &config.upstream_base_url
        && let Err(fault) = obleth_admin::check_api_base(base, config.networks())
    {
        faults.push(Fault::new(sources.place("UPSTREAM_BASE_URL"), fault.to_string()));
    }
    let listeners = [
        ("PROXY_LISTEN", config.proxy_listen),
        ("ADMIN_LISTEN", config.admin_listen),
        ("METRICS_LISTEN", config.metrics_listen),
    ];
    for (at, (name, address)) in listeners.iter().enumerate() {
        // Port 0 is a fresh port each time.
        let same = |other: &&(&str, std::net::SocketAddr)| address.port() != 0 && other.1 == *address;
        if let Some((first, _)) = listeners[..at].iter().find(same) {
            let message = format!("{address} is OBLETH_{first}'s already; choose another port");
            faults.push(Fault::new(sources.place(name), message));
        }
    }
}
