use super::*;

/// Numbers in [-1, 1) without a pattern.
fn numbers(len: usize, seed: u8) -> Vec<f32> {
    let mut out = vec![0.0_f32; len];
    crate::xoshiro::Xoshiro::from_seed(&[seed]).fill(&mut out);
    out.into_iter().map(|value| 2.0 * value - 1.0).collect()
}

/// `sum over k of a(i, k) b(k, j)` in float64, compared with `out[rows, cols]`.
fn check(out: &[f32], cols: usize, inner: usize, term: impl Fn(usize, usize, usize) -> f64, what: &str) {
    for (index, &value) in out.iter().enumerate() {
        let expected: f64 = (0..inner).map(|k| term(index / cols, index % cols, k)).sum();
        let allowed = 1e-6 * (1.0 + inner as f64).sqrt() * 2.0;
        assert!((f64::from(value) - expected).abs() < allowed, "{what}[{index}]: {value} and {expected}");
    }
}

fn check_shape(shape: Shape) {
    let Shape { batch, n_in, n_out } = shape;
    let (w, b) = (numbers(n_out * n_in, 1), numbers(n_out, 2));
    let (x, dy) = (numbers(batch * n_in, 3), numbers(batch * n_out, 4));
    // NaN beforehand, so that an element that is not overwritten is noticed.
    let mut y = vec![f32::NAN; batch * n_out];
    let (mut dw, mut db, mut dx) = (vec![f32::NAN; w.len()], vec![f32::NAN; n_out], vec![f32::NAN; x.len()]);
    forward(shape, &w, &b, &x, &mut y);
    gradient(shape, &w, &x, &dy, Gradient { dw: &mut dw, db: &mut db, dx: &mut dx });
    let product = |p: f32, q: f32| f64::from(p) * f64::from(q);
    let forward_term = |i: usize, o: usize, k: usize| {
        if k == n_in { f64::from(b[o]) } else { product(x[i * n_in + k], w[o * n_in + k]) }
    };
    check(&y, n_out, n_in + 1, forward_term, &format!("{shape:?} y"));
    let dw_term = |o: usize, k: usize, i: usize| product(dy[i * n_out + o], x[i * n_in + k]);
    check(&dw, n_in, batch, dw_term, &format!("{shape:?} dW"));
    check(&db, n_out, batch, |_, o, i| f64::from(dy[i * n_out + o]), &format!("{shape:?} db"));
    let dx_term = |i: usize, k: usize, o: usize| product(dy[i * n_out + o], w[o * n_in + k]);
    check(&dx, n_in, n_out, dx_term, &format!("{shape:?} dx"));
}

#[test]
fn every_shape_agrees_with_sums_in_float64() {
    for batch in [0, 1, 2, 3, 8, 33, 100] {
        for n_in in [0, 1, 3, 8, 17, 64] {
            for n_out in [0, 1, 2, 3, 10, 40] {
                check_shape(Shape { batch, n_in, n_out });
            }
        }
    }
}

#[test]
fn a_long_batch_keeps_its_digits() {
    // In float32 alone the sum of 300000 ones of size 0.1 is off by a percent.
    let shape = Shape { batch: 300_000, n_in: 1, n_out: 1 };
    let (x, dy) = (vec![1.0; shape.batch], vec![0.1; shape.batch]);
    let (mut dw, mut db, mut dx) = ([0.0], [0.0], vec![0.0; shape.batch]);
    gradient(shape, &[1.0], &x, &dy, Gradient { dw: &mut dw, db: &mut db, dx: &mut dx });
    assert!((dw[0] - 30_000.0).abs() < 3.0, "{}", dw[0]);
    assert!((db[0] - 30_000.0).abs() < 0.01, "{}", db[0]);
}

#[test]
fn an_infinite_weight_reaches_its_output_alone() {
    let mut w = vec![1.0; 40 * 64];
    w[64] = f32::INFINITY;
    let mut y = vec![0.0; 20 * 40];
    forward(Shape { batch: 20, n_in: 64, n_out: 40 }, &w, &[0.0; 40], &[1.0; 20 * 64], &mut y);
    for row in y.chunks_exact(40) {
        assert_eq!((row[0], row[1], row[39]), (64.0, f32::INFINITY, 64.0));
    }
}
