//! Who takes part in a comparison: obleth, the peers that are installed, the floor, and the backend behind them.
//!
//! A peer that is not installed is remembered with the reason; obleth and the floor are never missing.

use anyhow::Result;

use super::Asked;
use crate::{
    peers::Peer,
    processors::Placement,
    subject::{self, Subject},
    terminal::remark,
};

/// Who is measured, and the backend behind them. The backend is stopped last.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) subjects: Vec<Subject>,
    /// Peers that are not there, and why.
    absent: Vec<(Peer, String)>,
    pub(super) backend: Subject,
}

impl Field {
    /// obleth with one shard, the peers that are installed, the floor.
    pub(super) fn full(asked: &Asked, placement: &Placement) -> Result<Self> {
        let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
        let site = asked.site(placement, &backend);
        let mut subjects = vec![site.obleth("obleth", 1)?];
        let mut absent = Vec::new();
        for peer in Peer::ALL {
            match site.peer(peer) {
                Ok(subject) => subjects.push(subject),
                Err(error) => {
                    remark(&format!("{error:#}"));
                    absent.push((peer, format!("{error:#}")));
                }
            }
        }
        subjects.push(site.floor()?);
        Ok(Self { subjects, absent, backend })
    }

    /// Why a peer is not among the subjects.
    pub(super) fn why_absent(&self, peer: Peer) -> Option<String> {
        self.absent.iter().find(|(absent, _)| *absent == peer).map(|(_, why)| why.clone())
    }
}
