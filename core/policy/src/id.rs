//! Identities: stable ones that operators see (UUIDv7), and dense ones that index a core's tables.
//!
//! A dense index is given out by the sidecar when it builds a snapshot and means the same row for the life of
//! the process; it must never be written to a store or shown to a user.

use std::fmt;

use uuid::Uuid;

macro_rules! stable_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }
    };
}

stable_id!(
    /// A tenant: the party that requests are accounted to.
    TenantId
);
stable_id!(
    /// A key: one credential of a tenant. Keeps its id through rotation.
    KeyId
);
stable_id!(
    /// A group of tenants that share a weight.
    GroupId
);
stable_id!(
    /// A model of the registry.
    ModelId
);
stable_id!(
    /// One backend address of a model.
    EndpointId
);

macro_rules! dense_ix {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The index as a table position.
            #[must_use]
            pub const fn at(self) -> usize {
                self.0 as usize
            }
        }
    };
}

dense_ix!(
    /// A pool: the slots of one model, shared by its aliases.
    PoolIx
);
dense_ix!(
    /// A group's place in the coordinator's tables.
    GroupIx
);

impl GroupIx {
    /// The group that every new tenant is in.
    pub const DEFAULT: Self = Self(0);
}

dense_ix!(
    /// A tenant's place in per-core tables.
    TenantIx
);
