//! The owner and the purses of several shards together, over links that deliver when they like.

mod edges;
mod random;
mod troubles;
mod world;
