//! nginx and HAProxy, set up the way one sets them up in front of an LLM server: kept connections, no buffering.
//!
//! One worker each, nothing logged, no limit that a scenario reaches. What is not installed is named with the
//! command that installs it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::process;

/// A proxy to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Nginx, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Where it is installed.
    ///
    /// # Errors
    /// It is not; the message says how to.
    pub(crate) fn program(self) -> Result<PathBuf> {
        let package = match self {
            Self::Nginx => "nginx-light",
            Self::Haproxy => "haproxy",
        };
        process::find(self.name())
            .with_context(|| format!("{} is not installed: apt-get install {package}", self.name()))
    }

    /// The first line of what it says of itself, if it is installed.
    pub(crate) fn version(self) -> Option<String> {
        let output = Command::new(self.program().ok()?).arg("-v").env_clear().output().ok()?;
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
    }
}

/// Writes the configuration of a peer, and gives the arguments to start it with.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn prepare(
    peer: Peer,
    folder: &Path,
    listen: SocketAddr,
    backend: SocketAddr,
) -> Result<Vec<String>> {
    let path = folder.join(format!("{}.conf", peer.name()));
    let text = match peer {
        Peer::Nginx => nginx(folder, listen, backend),
        Peer::Haproxy => haproxy(listen, backend),
    };
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let path = path.display().to_string();
    Ok(match peer {
        Peer::Nginx => vec!["-p".to_owned(), folder.display().to_string(), "-c".to_owned(), path],
        Peer::Haproxy => vec!["-db".to_owned(), "-f".to_owned(), path],
    })
}

fn nginx(folder: &Path, listen: SocketAddr, backend: SocketAddr) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {folder}/nginx-{kind};\n"))
        .concat();
    // Started by root, a worker that were somebody else could not enter the folder of this run.
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}worker_processes 1;\ndaemon off;\nerror_log stderr;\npid {folder}/nginx.pid;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n  access_log off;\n{temporary}  \
         upstream backend {{ server {backend}; keepalive 512; keepalive_requests 10000000; }}\n  \
         server {{\n    listen {listen} backlog=4096;\n    keepalive_requests 10000000;\n    location / {{\n      \
         proxy_pass http://backend;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_buffering off;\n    }}\n  }}\n}}\n"
    )
}

fn haproxy(listen: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  \
         timeout server 600s\n  timeout http-keep-alive 600s\n  option http-no-delay\n  http-reuse always\n\
         frontend clients\n  bind {listen} backlog 4096\n  default_backend servers\nbackend servers\n  \
         server one {backend}\n"
    )
}
