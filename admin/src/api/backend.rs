//! Where a model runs, as a body says it: `api_base` and `api_key` for one endpoint, or a list of `endpoints`.
//!
//! A list replaces the list that is stored. An entry that has the name of a stored endpoint edits that one: what it
//! does not say stays. A credential is write-only: an absent `api_key` keeps what is stored, null removes it. What is
//! stored never follows its endpoint to another scheme, host or port.

use std::sync::Arc;

use obleth_policy::snapshot::{MAX_ENDPOINTS, Secret};
use tokio::task::JoinSet;

use super::{body::Fields, error::ApiError, tenants::set};
use crate::{
    address::{AddressFault, ApiBase},
    resolve::{Hold, Names},
    store::{
        fault::StoreError,
        rows::{Credential, EndpointRow},
    },
};

/// What preferences of endpoints may be; lower is preferred.
pub(super) const PRIORITIES: std::ops::RangeInclusive<i64> = 0..=1000;
/// Name of an endpoint that states none.
const DEFAULT_NAME: &str = "default";

/// What a body says about a model's endpoints.
#[derive(Debug, Default)]
pub(super) enum Backend {
    /// Nothing.
    #[default]
    Keep,
    /// The short form: only address and credential of the one endpoint.
    Short(EndpointEdit),
    /// The long form: these and no others; an empty one is the default upstream.
    List(Vec<(String, EndpointEdit)>),
}

/// What a body says about one endpoint; what it does not say stays.
#[derive(Debug, Default)]
pub(super) struct EndpointEdit {
    api_base: Option<String>,
    api_key: Option<Option<Secret>>,
    priority: Option<u32>,
    enabled: Option<bool>,
    params: Params,
}

/// Where an endpoint's members stand in the body, for messages.
#[derive(Clone, Debug, Default)]
struct Params {
    api_base: String,
    api_key: String,
}

impl EndpointEdit {
    /// The members that both forms have.
    fn read(body: &mut Fields) -> Result<Self, ApiError> {
        let params = Params { api_base: body.path_of("api_base"), api_key: body.path_of("api_key") };
        let api_base = body.text("api_base")?;
        if let Some(text) = &api_base {
            ApiBase::parse(text).map_err(|fault| unusable(&params.api_base, fault))?;
        }
        Ok(Self { api_base, api_key: body.maybe_secret("api_key")?, params, ..Self::default() })
    }

    /// One entry of the list, with its name.
    fn read_entry(mut body: Fields) -> Result<(String, Self), ApiError> {
        let name = body.name("name")?.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let edit = Self {
            priority: body.number("priority", PRIORITIES)?,
            enabled: body.flag("enabled")?,
            ..Self::read(&mut body)?
        };
        body.not_yet("weight")?;
        body.not_yet("max_in_flight")?;
        body.finish()?;
        Ok((name, edit))
    }

    /// The stored endpoint of this name as edited, or a new one.
    fn apply(self, old: Option<EndpointRow>, name: String) -> Result<EndpointRow, StoreError> {
        let Params { api_base, api_key } = &self.params;
        let mut row = match (old, &self.api_base) {
            (Some(row), _) => row,
            (None, Some(text)) => EndpointRow::draft(name, text.clone()),
            (None, None) => return Err(no_address(api_base)),
        };
        let is_kept = self.api_key.is_none() && row.credential != Credential::None;
        if is_kept && moves(&row, self.api_base.as_deref()) {
            return Err(credential_stays(api_key));
        }
        let credential = self.api_key.map(|secret| secret.map_or(Credential::None, Credential::Known));
        set(&mut row.api_base, self.api_base);
        set(&mut row.credential, credential);
        set(&mut row.priority, self.priority);
        set(&mut row.enabled, self.enabled);
        Ok(row)
    }
}

impl Backend {
    pub(super) fn read(body: &mut Fields) -> Result<Self, ApiError> {
        let short = EndpointEdit::read(body)?;
        let is_short = short.api_base.is_some() || short.api_key.is_some();
        let Some(entries) = body.objects("endpoints", MAX_ENDPOINTS)? else {
            return Ok(if is_short { Self::Short(short) } else { Self::Keep });
        };
        if is_short {
            let message = "Give either `endpoints` or `api_base` and `api_key`.";
            return Err(ApiError::invalid("endpoints", message));
        }
        let mut list: Vec<(String, EndpointEdit)> = Vec::with_capacity(entries.len());
        for (at, entry) in entries.into_iter().enumerate() {
            let (name, edit) = EndpointEdit::read_entry(entry)?;
            if list.iter().any(|(known, _)| *known == name) {
                let message = format!("Another endpoint of this model is named `{name}`.");
                return Err(ApiError::invalid(format!("endpoints[{at}].name"), message));
            }
            list.push((name, edit));
        }
        Ok(Self::List(list))
    }

    fn edits(&self) -> impl Iterator<Item = &EndpointEdit> {
        let (short, list) = match self {
            Self::Keep => (None, [].as_slice()),
            Self::Short(edit) => (Some(edit), [].as_slice()),
            Self::List(list) => (None, list.as_slice()),
        };
        short.into_iter().chain(list.iter().map(|(_, edit)| edit))
    }

    /// Judges the addresses and resolves the names in them, so that they are known when the first request comes. Keep
    /// the holds until the write has ended.
    ///
    /// # Errors
    /// One is, or resolves to, what a backend may not have.
    pub(super) async fn check_names(&self, names: &Arc<Names>) -> Result<Vec<Hold>, ApiError> {
        let mut checks = JoinSet::new();
        for edit in self.edits() {
            let Some(text) = &edit.api_base else { continue };
            let (names, param) = (Arc::clone(names), edit.params.api_base.clone());
            let target = ApiBase::parse(text).map_err(|fault| unusable(&param, fault))?.target;
            checks.spawn(async move { names.check(&target).await.map_err(|fault| unusable(&param, fault)) });
        }
        let mut holds = Vec::new();
        while let Some(checked) = checks.join_next().await {
            holds.extend(checked.map_err(|_| ApiError::internal())??);
        }
        Ok(holds)
    }

    /// Leaves the endpoints most preferred first.
    ///
    /// # Errors
    /// The last endpoint would be taken away, one would be without an address, or a stored credential would go to
    /// another host.
    pub(super) fn apply(
        self,
        rows: &mut Vec<EndpointRow>,
        has_default_upstream: bool,
    ) -> Result<(), StoreError> {
        match self {
            Self::Keep => {}
            // Staying on a default upstream that is gone is no change; moving to it is refused.
            Self::List(list) if list.is_empty() && rows.is_empty() => {}
            Self::List(list) if list.is_empty() => {
                rows.clear();
                require_backend(rows, has_default_upstream)?;
            }
            Self::List(list) => {
                let mut old = std::mem::take(rows);
                for (name, edit) in list {
                    let known = old.iter().position(|row| row.name == name).map(|at| old.swap_remove(at));
                    rows.push(edit.apply(known, name)?);
                }
                rows.sort_by_key(|row| row.priority);
            }
            Self::Short(edit) if rows.len() > 1 => {
                let Params { api_base, api_key } = edit.params;
                let param = if edit.api_base.is_some() { api_base } else { api_key };
                let message =
                    "The model has several endpoints. Say what is to become of them in `endpoints`.";
                return Err(StoreError::Invalid { param, message: message.to_owned() });
            }
            Self::Short(edit) => {
                let old = rows.pop();
                let name = old.as_ref().map_or_else(|| DEFAULT_NAME.to_owned(), |row| row.name.clone());
                rows.push(edit.apply(old, name)?);
            }
        }
        Ok(())
    }
}

/// What a model must have to be created.
///
/// # Errors
/// It names no endpoint, and there is no default upstream.
pub(super) fn require_backend(rows: &[EndpointRow], has_default_upstream: bool) -> Result<(), StoreError> {
    if rows.is_empty() && !has_default_upstream {
        return Err(no_address("api_base"));
    }
    Ok(())
}

/// Whether the endpoint would be on another host or port, or without TLS what had it. An address that cannot be read
/// is another one.
fn moves(row: &EndpointRow, to: Option<&str>) -> bool {
    let target = |text| ApiBase::parse(text).ok().map(|base| (base.tls, base.target));
    to.is_some_and(|to| target(to).is_none_or(|to| target(&row.api_base) != Some(to)))
}

fn credential_stays(param: &str) -> StoreError {
    let message = format!(
        "The stored credential is not sent to another scheme, host or port. Give `{param}` again, or `null` for none."
    );
    StoreError::Invalid { param: param.to_owned(), message }
}

fn no_address(param: &str) -> StoreError {
    let message = format!("A backend has no address. Give `{param}`, as in `http://host:8000/v1`.");
    StoreError::Invalid { param: param.to_owned(), message }
}

fn unusable(param: &str, fault: AddressFault) -> ApiError {
    ApiError::invalid(param, format!("`{param}` {fault}."))
}
