//! One image of a class.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// Names of the classes, in the order of their labels.
pub(super) const CLASSES: [&str; 10] =
    ["warm disc", "cold disc", "ring", "square", "triangle", "cross", "crescent", "stripes", "checks", "dots"];

const SIDE: usize = 32;
/// Distance of two values that a pixel can have: noise in fewer of them takes less room.
const STEP: f64 = 25.0;
/// Largest noise of the brightness; it is the sum of three numbers that are as likely as each other.
const NOISE: f64 = 9.0;
/// Small things that mean nothing.
const CLUTTER: usize = 4;

/// Red, green and blue, 0 to 255.
type Colour = [f64; 3];

/// A source of numbers that are the same everywhere.
pub(super) struct Random(pub(super) ChaCha8Rng);

impl Random {
    /// A number from `low` to `high`.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * f64::from(self.0.next_u32() >> 8) / f64::from(1 << 24)
    }

    fn is(&mut self, share: f64) -> bool {
        self.between(0.0, 1.0) < share
    }

    fn colour(&mut self) -> Colour {
        [0; 3].map(|_| self.between(20.0, 235.0))
    }

    /// Cosine and sine of an angle from -90 to 90 degrees, without either function.
    fn turn(&mut self) -> [f64; 2] {
        let t = self.between(-1.0, 1.0);
        [(1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)]
    }
}

/// Sum of the distances of the three values.
fn contrast(a: Colour, b: Colour) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum()
}

/// How far a point lies outside of a shape of size 1; negative inside.
fn outside(label: usize, u: f64, v: f64) -> f64 {
    let length = |u: f64, v: f64| (u * u + v * v).sqrt();
    let bar = |u: f64, v: f64| (u.abs() - 0.95).max(v.abs() - 0.28);
    match label {
        0 | 1 => length(u, v) - 0.9,
        2 => (length(u, v) - 0.74).abs() - 0.2,
        3 => u.abs().max(v.abs()) - 0.78,
        4 => {
            // Half the square root of 3.
            let side = 0.866_025_403_784_438_6 * u.abs() - 0.5 * v;
            v.max(side) - 0.5
        }
        5 => bar(u, v).min(bar(v, u)),
        6 => (length(u, v) - 0.95).max(0.75 - length(u - 0.5, v)),
        // What textures are seen in.
        _ => u.abs().max(v.abs()).max(0.75 * (u.abs() + v.abs())) - 0.9,
    }
}

/// Whether a point of a texture has its second colour; lengths are in pixels.
fn is_second(label: usize, x: f64, y: f64, period: f64) -> bool {
    let half = |value: f64| (2.0 * value / period).floor().rem_euclid(2.0) == 1.0;
    match label {
        7 => half(x),
        8 => half(x) != half(y),
        9 => {
            let off = |value: f64| (value / period - (value / period).floor() - 0.5) * period;
            off(x) * off(x) + off(y) * off(y) < 0.09 * period * period
        }
        _ => false,
    }
}

/// Pixels of one image: all red values, all green ones, all blue ones.
pub(super) fn draw(label: usize, random: &mut Random) -> Vec<u8> {
    let mut image = background(random);
    for _ in 0..CLUTTER {
        blob(&mut image, random);
    }
    figure(&mut image, label, random);
    if random.is(0.5) {
        blob(&mut image, random);
    }
    finish(&image, random)
}

/// From one colour to another along some direction.
fn background(random: &mut Random) -> Vec<Colour> {
    let (from, to, [c, s]) = (random.colour(), random.colour(), random.turn());
    let at = |index: usize| {
        let (x, y) = ((index % SIDE) as f64 - 15.5, (index / SIDE) as f64 - 15.5);
        let share = (0.5 + (c * x + s * y) / 44.0).clamp(0.0, 1.0);
        [0, 1, 2].map(|k| from[k] + share * (to[k] - from[k]))
    };
    (0..SIDE * SIDE).map(at).collect()
}

/// A small disc or bar.
fn blob(image: &mut [Colour], random: &mut Random) {
    let (x0, y0) = (random.between(0.0, 32.0), random.between(0.0, 32.0));
    let (colour, [c, s]) = (random.colour(), random.turn());
    let (long, wide) = (random.between(1.0, 5.0), random.between(0.6, 1.8));
    paint(image, [x0, y0], [c, s], 1.0, &|u, v| (u.abs() - long).max(v.abs() - wide), &|_, _| colour);
}

/// The thing that the image is of.
fn figure(image: &mut [Colour], label: usize, random: &mut Random) {
    let (place, turn) = ([random.between(11.0, 21.0), random.between(11.0, 21.0)], random.turn());
    let size = random.between(6.5, 11.0);
    let behind = image[place[1] as usize * SIDE + place[0] as usize];
    let first = loop {
        let mut colour = random.colour();
        let difference = random.between(60.0, 160.0);
        match label {
            0 => colour[2] = colour[0] - difference,
            1 => colour[0] = colour[2] - difference,
            _ => {}
        }
        if colour.iter().all(|value| *value >= 0.0) && contrast(colour, behind) > 110.0 {
            break colour;
        }
    };
    let second = loop {
        let colour = random.colour();
        if contrast(colour, first) > 150.0 {
            break colour;
        }
    };
    let (period, shift) = (random.between(4.5, 7.0), [random.between(0.0, 7.0), random.between(0.0, 7.0)]);
    let colour = |u: f64, v: f64| {
        let textured = is_second(label, u * size + shift[0], v * size + shift[1], period);
        if textured { second } else { first }
    };
    paint(image, place, turn, size, &|u, v| outside(label, u, v), &colour);
}

/// Puts a shape over the image, with soft edges; `outside` and `colour` take coordinates of the shape.
fn paint(
    image: &mut [Colour],
    [x0, y0]: [f64; 2],
    [c, s]: [f64; 2],
    size: f64,
    outside: &dyn Fn(f64, f64) -> f64,
    colour: &dyn Fn(f64, f64) -> Colour,
) {
    for (index, pixel) in image.iter_mut().enumerate() {
        let (x, y) = ((index % SIDE) as f64 + 0.5 - x0, (index / SIDE) as f64 + 0.5 - y0);
        let (u, v) = ((c * x + s * y) / size, (c * y - s * x) / size);
        let share = (0.5 - size * outside(u, v)).clamp(0.0, 1.0);
        if share > 0.0 {
            let colour = colour(u, v);
            *pixel = [0, 1, 2].map(|k| pixel[k] + share * (colour[k] - pixel[k]));
        }
    }
}

/// The image with noise, in the values that pixels have.
fn finish(image: &[Colour], random: &mut Random) -> Vec<u8> {
    let noise: Vec<f64> = image.iter().map(|_| (0..3).map(|_| random.between(-NOISE, NOISE)).sum()).collect();
    let value = |index: usize, k: usize| {
        let level = ((image[index][k] + noise[index]) / STEP + 0.5).floor().clamp(0.0, 10.0);
        (level * STEP) as u8
    };
    (0..3).flat_map(|k| (0..image.len()).map(move |index| (index, k))).map(|(index, k)| value(index, k)).collect()
}
