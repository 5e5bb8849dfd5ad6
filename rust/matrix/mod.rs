//! Products of float32 matrices, added up in one order on every instruction set.
//!
//! A product is computed by tiles whose sums are kept in registers ([`kernel`]), from operands packed in the order in which
//! the tiles read them ([`pack`], [`multiply`]), by as many threads as help ([`share`]). One row is read where it lies
//! ([`thin`]), and rows of very few columns are computed side by side ([`narrow`]).

#![expect(clippy::needless_range_loop, reason = "loops over registers: plain ones are unrolled")]

pub(crate) mod kernel;
pub(crate) mod multiply;
pub(crate) mod narrow;
pub(crate) mod pack;
pub(crate) mod product;
pub(crate) mod share;
pub(crate) mod thin;
pub(crate) mod vector;
