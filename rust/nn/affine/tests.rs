use super::*;

/// Numbers in [-1, 1) without a pattern.
fn numbers(len: usize, seed: u8) -> Vec<f32> {
    let mut out = vec![0.0_f32; len];
    crate::random::xoshiro::Xoshiro::from_seed(&[seed]).fill(&mut out);
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

/// What a call writes: `y`, `dW`, `db`, `dx`.
fn outputs(shape: Shape) -> [Vec<f32>; 4] {
    let Shape { batch, n_in, n_out } = shape;
    let (w, b) = (numbers(n_out * n_in, 1), numbers(n_out, 2));
    let (x, dy) = (numbers(batch * n_in, 3), numbers(batch * n_out, 4));
    let mut out = [batch * n_out, w.len(), n_out, x.len()].map(|len| vec![f32::NAN; len]);
    let [y, dw, db, dx] = &mut out;
    forward(shape, &w, &b, &x, y);
    gradient(shape, &w, &x, &dy, Gradient { dw, db, dx });
    let (mut same_dw, mut same_db) = (vec![f32::NAN; w.len()], vec![f32::NAN; n_out]);
    parameter_gradient(shape, &x, &dy, &mut same_dw, &mut same_db);
    assert!(same_dw == *dw && same_db == *db, "{shape:?}");
    out
}

/// The order that the module promises: blocks of 256 terms, each from zero.
fn in_order(k: usize, start: Option<f32>, term: impl Fn(usize) -> (f32, f32)) -> f32 {
    let mut total = start;
    for first in (0..k).step_by(256) {
        let sum = (first..k.min(first + 256)).fold(0.0, |sum, at| term(at).0.mul_add(term(at).1, sum));
        total = Some(total.map_or(sum, |total| total + sum));
    }
    total.unwrap_or(0.0)
}

/// The other order of [`outer`]: eight sums through every eighth term, in blocks of 2048 terms.
fn in_eight(k: usize, term: impl Fn(usize) -> (f32, f32)) -> f32 {
    (0..k).step_by(2048).fold(0.0, |total, first| {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|sum| {
            let terms = (first + sum..k.min(first + 2048)).step_by(8);
            terms.fold(0.0_f32, |sum, at| term(at).0.mul_add(term(at).1, sum))
        });
        total + (((a + e) + (c + g)) + ((b + f) + (d + h)))
    })
}

fn assert_bits(found: &[f32], cols: usize, expected: impl Fn(usize, usize) -> f32, what: &str) {
    for (at, value) in found.iter().enumerate() {
        let wanted = expected(at / cols, at % cols);
        assert_eq!(value.to_bits(), wanted.to_bits(), "{what}[{at}]: {value} and {wanted}");
    }
}

#[test]
fn every_way_adds_up_in_the_promised_order() {
    // A tile and its edges, several panels, several blocks of terms and of rows, packed and not, one row or column of a
    // gradient; few columns.
    let shapes = [(6, 300, 16), (7, 9, 17), (40, 270, 50), (600, 33, 30), (300, 20, 1), (1, 30, 600), (1100, 18, 35)];
    let narrow = (1..6).flat_map(|n_in| (2..6).map(move |n_out| (99, n_in, n_out)));
    let small = [1, 2, 3, 4, 5, 6, 7, 8, 1023, 1029].into_iter();
    let small = small.flat_map(|batch| [(1, 2), (2, 1), (3, 2), (4, 4)].map(|(n_in, n_out)| (batch, n_in, n_out)));
    for (batch, n_in, n_out) in shapes.into_iter().chain(narrow).chain(small) {
        let [y, dw, _, dx] = outputs(Shape { batch, n_in, n_out });
        let (w, b) = (numbers(n_out * n_in, 1), numbers(n_out, 2));
        let (x, dy) = (numbers(batch * n_in, 3), numbers(batch * n_out, 4));
        let what = format!("{batch}, {n_in}, {n_out}");
        if batch.min(n_out) > 1 {
            let value = |i: usize, o: usize| in_order(n_in, Some(b[o]), |k| (x[i * n_in + k], w[o * n_in + k]));
            assert_bits(&y, n_out, value, &format!("y of {what}"));
        }
        let value = |o: usize, k: usize| {
            let term = |i: usize| (dy[i * n_out + o], x[i * n_in + k]);
            if n_in.max(n_out) <= 4 { in_eight(batch, term) } else { in_order(batch, None, term) }
        };
        assert_bits(&dw, n_in, value, &format!("dW of {what}"));
        if n_in == 1 || batch == 1 && n_out == 1 {
            continue; // dot products
        }
        let value = |i: usize, k: usize| in_order(n_out, None, |o| (dy[i * n_out + o], w[o * n_in + k]));
        assert_bits(&dx, n_in, value, &format!("dx of {what}"));
    }
}

#[test]
fn the_small_gradient_adds_up_in_the_promised_order_at_every_level() {
    for (n_in, n_out) in (1..=4).flat_map(|k| (1..=4).map(move |n| (k, n))).filter(|&(k, n)| k * n > 1) {
        for batch in (0..=40).chain([2047, 2048, 2049, 2061, 4100]) {
            let shape = Shape { batch, n_in, n_out };
            let (mut x, mut dy) = (numbers(batch * n_in, 3), numbers(batch * n_out, 4));
            // Special numbers in the last row must not reach what does not depend on them.
            if let (Some(x), Some(dy), 1) = (x.last_mut(), dy.last_mut(), batch % 2) {
                (*x, *dy) = (f32::INFINITY, f32::NAN);
            }
            for level in crate::loops::simd::levels() {
                let (mut dw, mut db) = (vec![f32::NAN; n_out * n_in], vec![f32::NAN; n_out]);
                outer::weights(level, shape, &x, &dy, &mut dw, &mut db);
                let check = |found: f32, wanted: f32, what: &str| {
                    let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
                    assert!(same, "{what} of {shape:?} at {level:?}: {found} and {wanted}");
                };
                for (at, found) in dw.into_iter().enumerate() {
                    check(found, in_eight(batch, |i| (dy[i * n_out + at / n_in], x[i * n_in + at % n_in])), "dW");
                }
                for (o, found) in db.into_iter().enumerate() {
                    check(found, in_eight(batch, |i| (dy[i * n_out + o], 1.0)), "db");
                }
            }
        }
    }
}

#[test]
fn a_short_batch_adds_up_the_small_db_in_eight_and_a_long_one_in_float64() {
    for (n_in, n_out) in [(3, 2), (4, 3), (1, 2)] {
        for batch in [255, 256, 257, 2049] {
            let [_, _, db, _] = outputs(Shape { batch, n_in, n_out });
            let dy = numbers(batch * n_out, 4);
            let value = |_: usize, o: usize| match batch {
                0..=SHORT => in_eight(batch, |i| (dy[i * n_out + o], 1.0)),
                _ => (0..batch).map(|i| f64::from(dy[i * n_out + o])).sum::<f64>() as f32,
            };
            assert_bits(&db, n_out, value, &format!("db of {batch}, {n_in}, {n_out}"));
        }
    }
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    use crate::loops::simd;
    use crate::threads::pool;
    let shapes = [
        (145, 200, 161),
        (1100, 18, 35),
        (1, 2100, 2050),
        (4200, 1030, 1),
        (9, 5, 3),
        (50, 3, 2),
        (1, 21, 7),
        (50, 33, 1),
        (4500, 1, 1000),
    ];
    for (batch, n_in, n_out) in shapes {
        let shape = Shape { batch, n_in, n_out };
        let mut seen: Option<[Vec<u32>; 4]> = None;
        for level in simd::levels() {
            for threads in [1, 3] {
                simd::set_level(level);
                pool::set_threads(threads);
                let found = outputs(shape).map(|out| out.into_iter().map(f32::to_bits).collect::<Vec<_>>());
                let same = seen.get_or_insert_with(|| found.clone()) == &found;
                assert!(same, "{shape:?} at {level:?} with {threads} threads");
            }
        }
    }
    simd::set_level(simd::best());
}

#[test]
fn fused_is_rounded_once() {
    use crate::matrix::vector::fused;
    let mut bits = vec![0.0_f64; 3];
    let mut random = crate::random::xoshiro::Xoshiro::from_seed(&[5]);
    for round in 0..200_000 {
        random.fill(&mut bits);
        // Any exponent, and, every other time, a sum near a tie: the product has twice the digits of its factors.
        let value = |u: f64| f32::from_bits((u * f64::from(u32::MAX)) as u32);
        let [a, b, mut c] = [value(bits[0]), value(bits[1]), value(bits[2])];
        if round % 2 == 0 {
            c = -a * b * f32::from_bits(0x3f80_0000 + (bits[2] * 8.0) as u32);
        }
        let (found, expected) = (fused(a, b, c), a.mul_add(b, c));
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{a:e} * {b:e} + {c:e} = {found:e}, not {expected:e}");
    }
    for (a, b, c) in
        [(1.0, -1.0, 1.0), (0.0, -1.0, 0.0), (-0.0, 1.0, -0.0), (1e30, 1e30, f32::NEG_INFINITY), (1e38, 1e38, 0.0)]
    {
        assert_eq!(fused(a, b, c).to_bits(), f32::mul_add(a, b, c).to_bits(), "{a} * {b} + {c}");
    }
    assert!(fused(f32::INFINITY, 0.0, 1.0).is_nan());
}
