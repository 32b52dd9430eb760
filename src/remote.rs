//! The admin API, asked from outside: where it is, what opens it, and what its refusals mean for the shell.
//!
//! Commands that ask a running gateway go through here. The token goes to the address that the operator named and
//! nowhere else: no redirect is followed and no proxy of the environment is used.

use std::{io, net::IpAddr, path::Path, time::Duration};

use obleth_policy::snapshot::Secret;
use serde_json::Value;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode},
};

use crate::{
    cli::RemoteArgs,
    config::{self, Config, Environment, Flags},
    data_dir,
    exit::{Exit, Failure},
};

/// Until the connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Until the head of the answer: a report over years may take its time.
const ANSWER: Duration = Duration::from_secs(300);
/// Longest refusal that is read.
const MAX_REFUSAL: u64 = 64 * 1024;

/// A gateway's admin API. Owns what opens it.
pub(crate) struct Remote {
    agent: Agent,
    /// As `http://127.0.0.1:9090`.
    base: String,
    token: Secret,
}

impl Remote {
    /// Finds the address and the token: what the command line says, then the configuration, then the data folder.
    ///
    /// # Errors
    /// 64 where the configuration or the address cannot be used, 77 where there is no token.
    pub(crate) fn find(args: &RemoteArgs) -> Result<Self, Failure> {
        let environment = Environment::of_process();
        let loaded = config::load(args.config.as_deref(), Flags::default(), environment);
        let config = loaded.map_err(crate::refused)?.config;
        let base = match &args.admin {
            Some(url) => named(url)?,
            None => configured(&config)?,
        };
        let token = token(&config, args.data_dir.as_deref())?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .build();
        Ok(Self { agent: agent.into(), base, token })
    }

    /// The body of `GET /api/v1{path}`, which must be a 200.
    ///
    /// # Errors
    /// 69 where nobody answers; a refusal in the API's words.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Body, Failure> {
        let request =
            self.agent.get(format!("{}/api/v1{path}", self.base)).query_pairs(query.iter().copied());
        let authorization = format!("Bearer {}", self.token.expose());
        let answer = request.header("authorization", authorization).call();
        let answer = answer.map_err(|error| self.unanswered(&error))?;
        if answer.status() == StatusCode::OK { Ok(answer.into_body()) } else { Err(self.refused(answer)) }
    }

    fn unanswered(&self, error: &ureq::Error) -> Failure {
        let exit = match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Exit::Usage,
            _ => Exit::Unavailable,
        };
        Failure::new(exit, format!("no answer from the admin API at {}: {error}", self.base))
    }

    /// What a refusal says, and whose turn it is.
    fn refused(&self, answer: Response<Body>) -> Failure {
        let status = answer.status().as_u16();
        let exit = match status {
            400..=499 if matches!(status, 401 | 403) => Exit::NoPerm,
            404 => Exit::Unavailable,
            400..=499 => Exit::Usage,
            503 => Exit::TempFail,
            _ => Exit::IoErr,
        };
        let text = answer.into_body().into_with_config().limit(MAX_REFUSAL).read_to_string();
        let body: Value = text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let error = &body["error"];
        let line = match (error["message"].as_str(), error["param"].as_str()) {
            (Some(message), Some(param)) if !message.contains(&format!("`{param}`")) => {
                format!("{param}: {message}")
            }
            (Some(message), _) => message.to_owned(),
            (None, _) => "it does not look like an admin API".to_owned(),
        };
        Failure::new(exit, format!("{} answered {status}: {line}", self.base))
    }
}

/// A body that broke off.
pub(crate) fn broken(error: &io::Error) -> Failure {
    Failure::new(Exit::IoErr, format!("the answer of the admin API broke off: {error}"))
}

/// What `--admin` says, with or without the path of the API.
fn named(url: &str) -> Result<String, Failure> {
    let base = url.trim_end_matches('/').trim_end_matches("/api/v1").trim_end_matches('/');
    match base.strip_prefix("http://") {
        Some(host) if !host.is_empty() => Ok(base.to_owned()),
        _ => {
            let line = "--admin: write it like http://127.0.0.1:9090; the admin listener speaks no TLS";
            Err(Failure::new(Exit::Usage, line))
        }
    }
}

/// Where a gateway with this configuration listens, seen from its own machine.
fn configured(config: &Config) -> Result<String, Failure> {
    let mut listen = config.admin_listen;
    if listen.port() == 0 {
        let line = "the admin port is another one with every start; say where it is with --admin URL";
        return Err(Failure::new(Exit::Usage, line));
    }
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(format!("http://{listen}"))
}

fn token(config: &Config, folder: Option<&Path>) -> Result<Secret, Failure> {
    if let Some(given) = &config.admin_token {
        return Ok(given.clone());
    }
    data_dir::stored_token(folder)?.ok_or_else(|| {
        let line =
            "there is no admin token: set OBLETH_ADMIN_TOKEN, or name the gateway's folder with --data-dir";
        Failure::new(Exit::NoPerm, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_end_with_the_apis_path_and_must_be_one_of_plain_http() {
        for url in ["http://h:9090", "http://h:9090/", "http://h:9090/api/v1", "http://h:9090/api/v1/"] {
            assert_eq!(named(url).unwrap(), "http://h:9090", "{url}");
        }
        for wrong in ["h:9090", "https://h", "http://", "", "/api/v1"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_this_machines_own() {
        let base = |listen: &str| {
            let environment = Environment::of(&[("OBLETH_ADMIN_LISTEN", listen)]);
            configured(&config::load(None, Flags::default(), environment).unwrap().config)
        };
        assert_eq!(base("0.0.0.0:9090").unwrap(), "http://127.0.0.1:9090");
        assert_eq!(base("[::]:9090").unwrap(), "http://[::1]:9090");
        assert_eq!(base("10.0.0.7:80").unwrap(), "http://10.0.0.7:80");
        assert!(base("127.0.0.1:0").unwrap_err().to_string().contains("--admin"));
    }
}
