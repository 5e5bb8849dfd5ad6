//! What Python sees: converts, checks and calls; no arithmetic.

mod affine;
mod apply;
mod arena;
mod array;
mod classes;
mod collector;
mod differ;
mod entry;
mod files;
mod fit;
mod gradient;
mod hold;
mod layers;
mod leaf;
mod lists;
mod lookalike;
mod losses;
mod make;
mod masked;
mod network;
mod order;
mod overlap;
mod path;
mod program;
mod refit;
mod replace;
mod schedules;
mod setup;
mod spare;
mod stack;
mod steps;
mod threads;
mod ties;
mod trained;
mod tree;
mod twins;
mod update;
mod walk;
mod xoshiro;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: spare::Spare = spare::Spare;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::affine::{affine_forward, affine_gradient};
    #[pymodule_export]
    use super::apply::{apply, init, rules};
    #[pymodule_export]
    use super::array::{Pinned, Recycling};
    #[pymodule_export]
    use super::array::{array_span, refuse_moved, settled};
    #[pymodule_export]
    use super::collector::NoCollections;
    #[pymodule_export]
    use super::files::{
        Draft, Header, Inventory, Numbers, Outline, States, build, file_header, outline_of_file, outline_of_tree,
        place_in_file,
    };
    #[pymodule_export]
    use super::fit::Fit;
    #[pymodule_export]
    use super::hold::Hold;
    #[pymodule_export]
    use super::layers::{activations, dense_gradient, dense_pullback};
    #[pymodule_export]
    use super::leaf::{Leaf, set_frozen, stamps};
    #[pymodule_export]
    use super::losses::{loss, loss_pullback};
    #[pymodule_export]
    use super::make::{make_leaves, restore, restore_leaves};
    #[pymodule_export]
    use super::masked::{as_plain, refuse};
    #[pymodule_export]
    use super::network::{forward, supervised, supervised_loss};
    #[pymodule_export]
    use super::overlap::overlapping;
    #[pymodule_export]
    const MAX_DEPTH: usize = super::path::MAX_DEPTH;
    #[pymodule_export]
    use super::path::path_text;
    #[pymodule_export]
    use super::refit::set_rules;
    #[pymodule_export]
    use super::schedules::{schedule_at, schedule_of};
    #[pymodule_export]
    use super::setup::setup;
    #[pymodule_export]
    use super::threads::{get_num_threads, release_memory, set_num_threads, set_simd, simd_levels};
    #[pymodule_export]
    use super::tree::{flat_tree, register, registered, unflatten};
    #[pymodule_export]
    use super::update::{gradients, update};
    #[pymodule_export]
    use super::xoshiro::Xoshiro;

    #[pymodule_init]
    fn begin(module: &super::Bound<'_, super::PyModule>) -> super::PyResult<()> {
        super::leaf::begin();
        super::array::learn(module.py());
        super::collector::add(module)
    }
}
