//! What is broken on purpose, so that it is known that each checker can see.
//!
//! Faults are made in the model, between the threads or in the operator's hand; the product has no hooks for them.

/// One thing that goes wrong, again and again from the third chance on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A credit that a shard sends back gets lost.
    LoseReturn,
    /// A grant brings two credits.
    DoubleCredit,
    /// A grant is for another ticket than was decided.
    WrongLeaf,
    /// A ticket gets lost.
    LoseTicket,
    /// A grant gets lost.
    LoseGrant,
    /// The coordinator sleeps a hundred grant delays though there is something to decide.
    Oversleep,
    /// A report says one token more than was served.
    WrongTotals,
    /// The coordinator divides by other weights than it was told.
    WrongWeights,
    /// The coordinator believes in a higher ceiling.
    HighCeiling,
    /// A slot is not released when its request ends.
    KeepSlot,
    /// A pool is told to be larger than it is.
    LargerPool,
}
