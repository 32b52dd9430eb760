//! The data plane's endpoints. What is not listed here does not exist and never reaches a backend.

/// An endpoint of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `GET /v1/models` and `GET /v1/models/{id}`
    Models,
    /// `GET /health`
    Health,
    /// Anything else: answered 404 or 405, counted under one label.
    Unknown,
}

impl Route {
    /// All of them, in the order of [`Route::ix`].
    pub const ALL: [Self; 6] =
        [Self::Chat, Self::Completions, Self::Embeddings, Self::Models, Self::Health, Self::Unknown];

    /// A dense index, for tables.
    #[must_use]
    pub const fn ix(self) -> usize {
        self as usize
    }

    /// The path as it stands in metrics. Never what a client typed.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Models => "/v1/models",
            Self::Health => "/health",
            Self::Unknown => "other",
        }
    }

    /// The path behind the backend's base path, for endpoints that are passed on.
    #[must_use]
    pub const fn upstream_path(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("/chat/completions"),
            Self::Completions => Some("/completions"),
            Self::Embeddings => Some("/embeddings"),
            Self::Models | Self::Health | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_stands_at_its_index() {
        assert!(Route::ALL.iter().enumerate().all(|(at, route)| route.ix() == at));
    }
}
