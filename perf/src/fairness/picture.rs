//! Shares over time as a picture: one panel per run, one line per tenant, dashed what it is entitled to.
//!
//! SVG written by hand, as the picture of `compare`.

use std::{fmt::Write as _, time::Duration};

/// Shares of a run.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) title: String,
    /// Width of a window.
    pub(super) step: Duration,
    /// Of each window, the part that each tenant got.
    pub(super) shares: Vec<Vec<f64>>,
    /// From which window on each is entitled to which part.
    pub(super) entitled: Vec<(usize, Vec<f64>)>,
    /// What happened before which window.
    pub(super) marks: Vec<(usize, String)>,
}

/// Pixels of the whole width.
const WIDTH: f64 = 1000.0;
/// Pixels left and right of the lines.
const MARGIN: f64 = 60.0;
/// Pixels of a panel.
const HEIGHT: f64 = 240.0;
/// Pixels above and below the lines of a panel.
const HEAD: f64 = 34.0;
const FOOT: f64 = 22.0;
/// Lines to tell apart for people who see colours differently (Okabe and Ito, 2008).
const COLORS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Each count as a part of its window's sum; 0 where nobody got anything.
pub(super) fn part_of(counts: &[Vec<u64>]) -> Vec<Vec<f64>> {
    let part = |counts: &Vec<u64>| {
        let all = counts.iter().sum::<u64>().max(1) as f64;
        counts.iter().map(|count| *count as f64 / all).collect()
    };
    counts.iter().map(part).collect()
}

/// All panels, below each other. `foot` says where and when.
pub(super) fn svg(pictures: &[Picture], foot: &str) -> String {
    let height = 40.0 + HEIGHT * pictures.len() as f64 + 30.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">Delivered tokens by tenant, part of all; dashed: entitled</text>\n"
    );
    for (at, picture) in pictures.iter().enumerate() {
        panel(&mut text, picture, 40.0 + HEIGHT * at as f64);
    }
    let _ = writeln!(
        text,
        "<text x=\"12\" y=\"{}\" fill=\"#777\" font-size=\"11\">{}</text>\n</svg>",
        height - 10.0,
        escaped(foot)
    );
    text
}

/// A panel's scales.
struct Scale {
    top: f64,
    windows: f64,
    most: f64,
}

impl Scale {
    fn x(&self, window: f64) -> f64 {
        MARGIN + (WIDTH - 2.0 * MARGIN) * window / self.windows
    }

    fn y(&self, share: f64) -> f64 {
        self.top + HEAD + (HEIGHT - HEAD - FOOT) * (1.0 - share / self.most)
    }
}

fn panel(text: &mut String, picture: &Picture, top: f64) {
    let Picture { title, step, shares, entitled, marks } = picture;
    let all = shares.iter().chain(entitled.iter().map(|(_, parts)| parts)).flatten();
    let most = (all.fold(0.1, |most: f64, one| most.max(*one)) * 10.0).ceil() / 10.0;
    let scale = Scale { top, windows: shares.len().max(1) as f64, most };
    let seconds = step.as_secs_f64() * scale.windows;
    let (left, right, bottom) = (scale.x(0.0), scale.x(scale.windows), scale.y(0.0));
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{:.1}\">{} · windows of {} ms</text>\n\
         <path d=\"M{left} {:.1}V{bottom:.1}H{right}\" fill=\"none\" stroke=\"#444\"/>\n\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>\n\
         <text x=\"{}\" y=\"{bottom:.1}\" text-anchor=\"end\">0 %</text>\n\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{seconds:.0} s</text>",
        top + 16.0,
        escaped(title),
        step.as_millis(),
        scale.y(most),
        left - 6.0,
        scale.y(most) + 4.0,
        most * 100.0,
        left - 6.0,
        bottom + 16.0,
    );
    for (at, what) in marks {
        let (x, y) = (scale.x(*at as f64), top + HEAD - 4.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#bbb\"/>\n\
             <text x=\"{:.1}\" y=\"{y:.1}\" fill=\"#777\" font-size=\"9\">{}</text>",
            x + 2.0,
            escaped(what)
        );
    }
    for tenant in 0..shares.first().map_or(0, Vec::len) {
        lines(text, picture, tenant, &scale);
    }
}

/// One tenant's line, and the dashed one of what it is entitled to.
fn lines(text: &mut String, picture: &Picture, tenant: usize, scale: &Scale) {
    let color = COLORS.get(tenant % COLORS.len()).copied().unwrap_or("black");
    let of = |shares: &[f64]| shares.get(tenant).copied().unwrap_or_default();
    let mut points = String::new();
    for (at, shares) in picture.shares.iter().enumerate() {
        let _ = write!(points, "{:.1},{:.1} ", scale.x(at as f64 + 0.5), scale.y(of(shares)));
    }
    let mut dashes = String::new();
    let ends = picture.entitled.iter().skip(1).map(|(at, _)| *at).chain([picture.shares.len()]);
    for ((from, parts), to) in picture.entitled.iter().zip(ends) {
        let (y, from, to) = (scale.y(of(parts)), scale.x(*from as f64), scale.x(to as f64));
        let _ = write!(dashes, "M{from:.1} {y:.1}H{to:.1}");
    }
    let last = picture.shares.last().map_or(0.0, |shares| of(shares));
    let _ = writeln!(
        text,
        "<path d=\"{dashes}\" stroke=\"{color}\" stroke-dasharray=\"5 4\" fill=\"none\" opacity=\"0.6\"/>\n\
         <polyline points=\"{}\" stroke=\"{color}\" fill=\"none\" stroke-width=\"1.5\"/>\n\
         <text x=\"{}\" y=\"{:.1}\" fill=\"{color}\" font-size=\"10\">tenant {}</text>",
        points.trim_end(),
        scale.x(scale.windows) + 4.0,
        scale.y(last) + 4.0,
        tenant + 1
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_has_a_line_and_every_entitlement_its_dashes() {
        let picture = Picture {
            title: "a < b".to_owned(),
            step: Duration::from_millis(500),
            shares: part_of(&[vec![1, 3], vec![2, 2], vec![0, 0]]),
            entitled: vec![(0, vec![0.25, 0.75]), (1, vec![0.5, 0.5])],
            marks: vec![(1, "join".to_owned())],
        };
        assert_eq!(picture.shares, [[0.25, 0.75], [0.5, 0.5], [0.0, 0.0]]);
        let text = svg(&[picture.clone(), picture], "here & now");
        assert_eq!(text.matches("<polyline").count(), 4);
        assert!(text.contains("a &lt; b") && text.contains("here &amp; now") && text.contains(">join<"));
        let dashes = text.lines().find(|line| line.contains("stroke-dasharray")).unwrap();
        assert_eq!(dashes.matches('M').count(), 2, "{dashes}");
        assert!(text.contains("2 s</text>"), "three windows of half a second, to the second");
    }
}
