//! Mini-batches: runs of rows, or rows gathered in another order.

use crate::memory::reserve::{OutOfMemory, Reserve};
use crate::nn::losses::Objective;
use crate::nn::losses::crossentropy::Target;
use crate::nn::losses::values::Values;
use std::ops::Range;

/// What there is to learn from.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// How many rows there are.
    pub rows: usize,
    /// The input, `[rows, n_in]`.
    pub x: &'a [f32],
    /// The loss and its targets, for all rows.
    pub objective: Objective<'a>,
    /// The row numbers in the order in which they are taken, if that is not theirs; each below `rows`.
    pub order: Option<&'a [usize]>,
}

/// Room for one gathered batch.
#[derive(Default)]
pub struct Gathered {
    x: Vec<f32>,
    y: (Vec<f32>, Vec<f64>),
    classes: Vec<usize>,
}

impl Gathered {
    /// The rows at the places `range` of the order: their `n_in` inputs and `n_out` targets, if these are not classes. An error
    /// where there is no memory for them.
    #[inline]
    pub fn batch<'b>(
        &'b mut self,
        data: &Data<'b>,
        [n_in, n_out]: [usize; 2],
        range: Range<usize>,
    ) -> Result<(&'b [f32], Objective<'b>), OutOfMemory> {
        let Some(order) = data.order else {
            let x = &data.x[range.start * n_in..range.end * n_in];
            return Ok((x, rows(data.objective, range, n_out)));
        };
        let order = &order[range];
        gather(data.x, n_in, order, &mut self.x)?;
        let objective = match data.objective {
            Objective::Pointwise(loss, y) => Objective::Pointwise(loss, values(y, n_out, order, &mut self.y)?),
            Objective::Crossentropy(Target::Rows(y)) => {
                Objective::Crossentropy(Target::Rows(values(y, n_out, order, &mut self.y)?))
            }
            Objective::Crossentropy(Target::Classes(classes)) => {
                gather(classes, 1, order, &mut self.classes)?;
                Objective::Crossentropy(Target::Classes(&self.classes))
            }
        };
        Ok((&self.x, objective))
    }
}

#[inline]
fn rows(objective: Objective<'_>, range: Range<usize>, n: usize) -> Objective<'_> {
    let elements = range.start * n..range.end * n;
    match objective {
        Objective::Pointwise(loss, y) => Objective::Pointwise(loss, y.slice(elements)),
        Objective::Crossentropy(Target::Rows(y)) => Objective::Crossentropy(Target::Rows(y.slice(elements))),
        Objective::Crossentropy(Target::Classes(classes)) => Objective::Crossentropy(Target::Classes(&classes[range])),
    }
}

/// The rows `order` of `from[rows, n]`, in the room for their type.
#[inline]
fn values<'b>(
    from: Values<'_>,
    n: usize,
    order: &[usize],
    to: &'b mut (Vec<f32>, Vec<f64>),
) -> Result<Values<'b>, OutOfMemory> {
    Ok(match from {
        Values::Single(from) => {
            gather(from, n, order, &mut to.0)?;
            Values::Single(&to.0)
        }
        Values::Double(from) => {
            gather(from, n, order, &mut to.1)?;
            Values::Double(&to.1)
        }
    })
}

/// The rows `order` of `from[rows, n]`, one after the other.
fn gather<T: Copy>(from: &[T], n: usize, order: &[usize], to: &mut Vec<T>) -> Result<(), OutOfMemory> {
    to.clear();
    to.make_room(order.len() * n)?;
    for &row in order {
        to.extend_from_slice(&from[row * n..(row + 1) * n]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::losses::pointwise::Pointwise;

    #[test]
    fn rows_stay_together() {
        let (x, y) = ([0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [10.0, 11.0, 12.0]);
        let objective = Objective::Pointwise(Pointwise::Mse, Values::Single(&y));
        let mut gathered = Gathered::default();
        let mut data = Data { rows: 3, x: &x, objective, order: None };
        let (batch, found) = gathered.batch(&data, [2, 1], 1..3).unwrap();
        assert_eq!(batch, &x[2..]);
        assert!(matches!(found, Objective::Pointwise(_, Values::Single([11.0, 12.0]))));
        data.order = Some(&[2, 0, 1]);
        let (batch, found) = gathered.batch(&data, [2, 1], 0..2).unwrap();
        assert_eq!(batch, [2.0, 2.5, 0.0, 0.5]);
        assert!(matches!(found, Objective::Pointwise(_, Values::Single([12.0, 10.0]))));
        let wide = Objective::Pointwise(Pointwise::Mse, Values::Double(&[1e300, 2e300, 3e300]));
        let in_double = Data { objective: wide, ..data };
        let (_, found) = gathered.batch(&in_double, [2, 1], 0..2).unwrap();
        assert!(matches!(found, Objective::Pointwise(_, Values::Double([3e300, 1e300]))));
        data.objective = Objective::Crossentropy(Target::Classes(&[4, 5, 6]));
        let in_order = Data { order: None, ..data };
        let (_, found) = gathered.batch(&in_order, [2, 9], 1..3).unwrap();
        assert!(matches!(found, Objective::Crossentropy(Target::Classes([5, 6]))));
        let (_, found) = gathered.batch(&data, [2, 9], 2..3).unwrap();
        assert!(matches!(found, Objective::Crossentropy(Target::Classes([5]))));
    }
}
