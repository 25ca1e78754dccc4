//! Trajectories from above, as SVG drawings that need no other file.

use super::html::{escape, push};

/// Size of a drawing in CSS pixels, at most.
const SIZE: [f64; 2] = [340.0, 360.0];
/// Room around the paths, in their units.
const ROOM: f64 = 3.0;
/// Most lines of the grid along the longer side.
const GRID: f64 = 8.0;
/// Length and width of the vehicle, m.
const VEHICLE: [f64; 2] = [4.4, 1.9];

/// How a path is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stroke {
    /// As it should be: green, in a tube as wide as what counts as right.
    Wanted,
    /// As it was: orange, with a dot at every pose.
    Before,
    /// As it would be, or is now: blue, with a dot at every pose.
    After,
}

impl Stroke {
    /// Orange, blue and green of Okabe and Ito, which colour-blind readers tell apart.
    pub(crate) fn colour(self) -> &'static str {
        match self {
            Self::Wanted => "#009e73",
            Self::Before => "#d55e00",
            Self::After => "#0072b2",
        }
    }
}

/// One path: poses that begin with x (ahead) and y (to the left), one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn<'a> {
    pub(crate) poses: &'a [f32],
    /// Entries of a pose.
    pub(crate) pose: usize,
    pub(crate) stroke: Stroke,
}

/// What a drawing shows besides its paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Half the width of the tube around wanted paths; 0 for none.
    pub(crate) tolerance: f64,
    /// Whether lines are thin, for many paths.
    pub(crate) many: bool,
    /// Ends of what is shown: least and largest x, least and largest y.
    pub(crate) ends: [f64; 4],
}

impl Drawn<'_> {
    /// x and y of every pose.
    fn points(&self) -> impl Iterator<Item = [f64; 2]> + '_ {
        self.poses.chunks_exact(self.pose.max(2)).map(|pose| [f64::from(pose[0]), f64::from(pose[1])])
    }
}

/// Ends that hold all paths and the vehicle, with some room.
pub(crate) fn ends_of<'a>(paths: impl IntoIterator<Item = Drawn<'a>>) -> [f64; 4] {
    let mut ends = [-VEHICLE[0], VEHICLE[0], -VEHICLE[1], VEHICLE[1]];
    for path in paths {
        for [x, y] in path.points().filter(|point| point.iter().all(|v| v.is_finite())) {
            ends = [ends[0].min(x), ends[1].max(x), ends[2].min(y), ends[3].max(y)];
        }
    }
    [ends[0] - ROOM, ends[1] + ROOM, ends[2] - ROOM, ends[3] + ROOM]
}

/// From metres to pixels: ahead is up, left is left.
struct Map {
    scale: f64,
    ends: [f64; 4],
}

impl Map {
    fn new(ends: [f64; 4]) -> Self {
        let (ahead, across) = (ends[1] - ends[0], ends[3] - ends[2]);
        Self { scale: (SIZE[0] / across).min(SIZE[1] / ahead), ends }
    }

    fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.scale * (self.ends[3] - y), self.scale * (self.ends[1] - x)]
    }

    fn size(&self) -> [f64; 2] {
        [self.scale * (self.ends[3] - self.ends[2]), self.scale * (self.ends[1] - self.ends[0])]
    }

    /// A line through points as the value of `points`.
    fn line(&self, points: impl Iterator<Item = [f64; 2]>) -> String {
        let mut text = String::new();
        for [x, y] in points.filter(|point| point.iter().all(|v| v.is_finite())).map(|point| self.at(point)) {
            push(&mut text, format_args!("{x:.1},{y:.1} "));
        }
        text
    }
}

/// A drawing of paths from above; `label` says what it shows to those who cannot see it.
pub(crate) fn birds_eye(paths: &[Drawn<'_>], view: View, label: &str) -> String {
    let map = Map::new(view.ends);
    let [width, height] = map.size();
    let mut svg = format!(
        "<svg class=\"path\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\"><rect width=\"100%\" height=\"100%\" fill=\"#f7f8f9\"/>",
        escape(label)
    );
    grid(&mut svg, &map);
    vehicle(&mut svg, &map);
    for path in paths {
        one_path(&mut svg, &map, path, view);
    }
    svg.push_str("</svg>");
    svg
}

/// Lines at round distances, with their numbers along the left side.
fn grid(svg: &mut String, map: &Map) {
    let [x0, x1, y0, y1] = map.ends;
    let least = (x1 - x0).max(y1 - y0) / GRID;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|step| *step >= least).unwrap_or(10.0 * power);
    let lines = |from: f64, to: f64| {
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        (first..=last).map(move |k| k as f64 * step)
    };
    for x in lines(x0, x1) {
        let ends = map.line([[x, y0], [x, y1]].into_iter());
        let [_, at] = map.at([x, y1]);
        push(svg, format_args!("<polyline points=\"{ends}\" stroke=\"#dfe3e6\" fill=\"none\"/>"));
        push(
            svg,
            format_args!(
                "<text x=\"3\" y=\"{:.1}\" font-size=\"11\" fill=\"#6b7280\" font-family=\"sans-serif\">{x} m</text>",
                at - 3.0
            ),
        );
    }
    for y in lines(y0, y1) {
        let ends = map.line([[x0, y], [x1, y]].into_iter());
        push(svg, format_args!("<polyline points=\"{ends}\" stroke=\"#dfe3e6\" fill=\"none\"/>"));
    }
}

/// The vehicle where it is now, its rear axle at the origin.
fn vehicle(svg: &mut String, map: &Map) {
    let [length, width] = VEHICLE;
    let [left, top] = map.at([0.78 * length, width / 2.0]);
    push(
        svg,
        format_args!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{:.1}\" fill=\"#374151\" opacity=\"0.85\"/>",
            map.scale * width,
            map.scale * length,
            0.3 * map.scale * width
        ),
    );
}

fn one_path(svg: &mut String, map: &Map, path: &Drawn<'_>, view: View) {
    let points = map.line(std::iter::once([0.0, 0.0]).chain(path.points()));
    let (colour, width) = (path.stroke.colour(), if view.many { 1.0 } else { 2.2 });
    if path.stroke == Stroke::Wanted && view.tolerance > 0.0 {
        push(
            svg,
            format_args!(
                "<polyline points=\"{points}\" stroke=\"{colour}\" stroke-opacity=\"{}\" stroke-width=\"{:.2}\" \
                 stroke-linecap=\"round\" stroke-linejoin=\"round\" fill=\"none\"/>",
                if view.many { 0.10 } else { 0.22 },
                2.0 * view.tolerance * map.scale
            ),
        );
    }
    push(
        svg,
        format_args!("<polyline points=\"{points}\" stroke=\"{colour}\" stroke-width=\"{width}\" fill=\"none\"/>"),
    );
    if path.stroke != Stroke::Wanted {
        let radius = if view.many { 1.3 } else { 3.2 };
        for [x, y] in path.points().filter(|point| point.iter().all(|v| v.is_finite())).map(|point| map.at(point)) {
            push(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"));
        }
    }
}

/// Lines between what is and what should be, so that errors are seen among many paths.
pub(crate) fn with_errors(svg: String, pairs: &[(Drawn<'_>, Drawn<'_>)], view: View) -> String {
    let map = Map::new(view.ends);
    let mut lines = String::new();
    for (found, wanted) in pairs {
        for (a, b) in found.points().zip(wanted.points()) {
            let points = map.line([a, b].into_iter());
            push(
                &mut lines,
                format_args!("<polyline points=\"{points}\" stroke=\"#b91c1c\" stroke-width=\"1\" fill=\"none\"/>"),
            );
        }
    }
    svg.replace("</svg>", &format!("{lines}</svg>"))
}

/// The key of drawings, as HTML; the texts are HTML.
pub(crate) fn stroke_keys(entries: &[(Stroke, &str)]) -> String {
    let mut html = String::from("<figcaption class=\"keys\">");
    for (stroke, text) in entries {
        let colour = stroke.colour();
        push(&mut html, format_args!("<span><i class=\"key\" style=\"background:{colour}\"></i>{text}</span> "));
    }
    html + "</figcaption>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ahead_is_up_and_left_is_left_on_one_scale() {
        let poses = [10.0, 0.0, 20.0, 5.0];
        let path = Drawn { poses: &poses, pose: 2, stroke: Stroke::Before };
        let ends = ends_of([path]);
        assert!(ends[1] == 23.0 && ends[3] == 8.0, "{ends:?}");
        let map = Map::new(ends);
        let [origin, ahead, left] = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]].map(|point| map.at(point));
        assert!(ahead[1] < origin[1] && ahead[0] == origin[0] && left[0] < origin[0] && left[1] == origin[1]);
        let [up, side] = [origin[1] - ahead[1], origin[0] - left[0]];
        assert!((up - side).abs() <= 8.0 * f64::EPSILON * up.max(map.size()[1]));
        let svg = birds_eye(&[path], View { tolerance: 0.5, many: false, ends }, "a <path>");
        assert!(svg.contains("a &lt;path&gt;") && svg.matches("<circle").count() == 2 && !svg.contains("NaN"));
        let broken = Drawn { poses: &[f32::NAN, 1.0], ..path };
        assert!(!birds_eye(&[broken], View { tolerance: 0.5, many: true, ends }, "x").contains("NaN"));
        let pairs = [(path, Drawn { stroke: Stroke::Wanted, ..path })];
        let lines = with_errors(svg, &pairs, View { tolerance: 0.0, many: true, ends });
        assert_eq!(lines.matches("#b91c1c").count(), 2);
    }
}
