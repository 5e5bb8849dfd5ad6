//! What Python sees: converts, checks and calls; no arithmetic.

mod array;
mod errors;
mod files;
mod leaf;
mod memory;
mod nn;
mod random;
mod settings;
mod tree;
mod update;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: memory::spare::Spare = memory::spare::Spare;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::array::masked::{as_plain, refuse};
    #[pymodule_export]
    use super::array::{Pinned, Recycling};
    #[pymodule_export]
    use super::array::{array_span, refuse_moved, settled};
    #[pymodule_export]
    use super::files::{
        Draft, Header, Inventory, Numbers, Outline, States, build, file_header, outline_of_file, outline_of_tree,
        place_in_file,
    };
    #[pymodule_export]
    use super::leaf::create::{make_leaves, restore, restore_leaves};
    #[pymodule_export]
    use super::leaf::hold::Hold;
    #[pymodule_export]
    use super::leaf::{Leaf, set_frozen, stamps};
    #[pymodule_export]
    use super::memory::collector::NoCollections;
    #[pymodule_export]
    use super::nn::affine::{affine_forward, affine_gradient};
    #[pymodule_export]
    use super::nn::dense::{activations, dense_gradient, dense_pullback};
    #[pymodule_export]
    use super::nn::fit::Fit;
    #[pymodule_export]
    use super::nn::losses::{loss, loss_pullback};
    #[pymodule_export]
    use super::nn::network::{forward, supervised, supervised_loss};
    #[pymodule_export]
    use super::update::apply::{apply, init, rules};
    #[pymodule_export]
    use super::update::overlap::overlapping;
    #[pymodule_export]
    const MAX_DEPTH: usize = super::tree::path::MAX_DEPTH;
    #[pymodule_export]
    use super::leaf::refit::set_rules;
    #[pymodule_export]
    use super::leaf::schedules::{schedule_at, schedule_of};
    #[pymodule_export]
    use super::leaf::setup::setup;
    #[pymodule_export]
    use super::random::Xoshiro;
    #[pymodule_export]
    use super::settings::{get_num_threads, release_memory, set_num_threads, set_simd, simd_levels};
    #[pymodule_export]
    use super::tree::classes::{register, registered};
    #[pymodule_export]
    use super::tree::node::{flat_tree, unflatten};
    #[pymodule_export]
    use super::tree::path::path_text;
    #[pymodule_export]
    use super::update::{gradients, update};

    #[pymodule_init]
    fn begin(module: &super::Bound<'_, super::PyModule>) -> super::PyResult<()> {
        super::leaf::begin();
        super::array::learn(module.py());
        super::memory::collector::add(module)
    }
}
