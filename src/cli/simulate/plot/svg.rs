//! Svg: shapes and words -> the text of a picture. Colours are given by class, so that they stand in one place.

use std::fmt::Write;

const STYLE: &str = "
text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .name { font-size: 14px; font-weight: 600 } .small { fill: #57606a }
.tick { font-size: 11px; fill: #57606a } .inside { fill: #ffffff; font-weight: 600 } .outside { font-weight: 600 }
.back { fill: #ffffff } .frame { fill: none; stroke: #8c959f } .grid { stroke: #d8dee4 }
.foreign { fill: #b6bec7 } .own { fill: #4c8dd6 } .edge { fill: none; stroke: #6e7781 }
.ceiling { stroke: #1a7f37; stroke-width: 1.6; stroke-dasharray: 7 4; fill: none }
.limit { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 2 3; fill: none } .change { stroke: #57606a; stroke-opacity: .45 }
.r0 { fill: #0a3069 } .r1 { fill: #0969da } .r2 { fill: #54aeff } .r3 { fill: #80ccff } .r4 { fill: #b6e3ff }
.asleep { fill: #eaeef2; stroke: #afb8c1 } .loading { fill: #d4a72c } .down { fill: #cf222e } .up { fill: #1a7f37 }
";

pub(super) type Point = (f64, f64);

pub(super) struct Svg {
    text: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let mut svg = Svg { text: String::new() };
        svg.put(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n<style>{STYLE}</style>\n"
        ));
        svg.rect((0.0, 0.0), (width, height), "back", None);
        svg
    }

    pub(super) fn finish(mut self) -> String {
        self.put("</svg>\n");
        self.text
    }

    /// `told` is shown when it is pointed at.
    pub(super) fn rect(&mut self, (x, y): Point, (wide, high): Point, class: &str, told: Option<&str>) {
        let told = title(told);
        self.put(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{high:.1}\" class=\"{class}\">{told}</rect>\n",
            wide.max(0.0)
        ));
    }

    pub(super) fn line(&mut self, (x, y): Point, (to_x, to_y): Point, class: &str) {
        self.put(&format!("<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" class=\"{class}\"/>\n"));
    }

    pub(super) fn path(&mut self, points: &[Point], class: &str) {
        let mut path = String::new();
        for (place, (x, y)) in points.iter().enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            write!(path, "{letter}{x:.1} {y:.1}").expect("a string takes all that is written to it");
        }
        self.put(&format!("<path d=\"{path}\" class=\"{class}\"/>\n"));
    }

    /// A triangle that points down or up.
    pub(super) fn mark(&mut self, (x, y): Point, class: &str, told: Option<&str>) {
        let tip = if class == "down" { 5.5 } else { -5.5 };
        let (base, tip) = (y - tip, y + tip);
        let told = title(told);
        self.put(&format!(
            "<path d=\"M{:.1} {base:.1}L{:.1} {base:.1}L{x:.1} {tip:.1}Z\" class=\"{class}\">{told}</path>\n",
            x - 5.5,
            x + 5.5
        ));
    }

    pub(super) fn text(&mut self, at: Point, class: &str, words: &str) {
        self.words(at, class, "start", words);
    }

    pub(super) fn text_at_end(&mut self, at: Point, class: &str, words: &str) {
        self.words(at, class, "end", words);
    }

    pub(super) fn text_amid(&mut self, at: Point, class: &str, words: &str) {
        self.words(at, class, "middle", words);
    }

    fn words(&mut self, (x, y): Point, class: &str, anchor: &str, words: &str) {
        let words = escaped(words);
        self.put(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>\n"
        ));
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }
}

fn title(told: Option<&str>) -> String {
    told.map_or_else(String::new, |told| format!("<title>{}</title>", escaped(told)))
}

/// Names come from files that anybody may have written.
fn escaped(words: &str) -> String {
    let clean = words.chars().filter(|letter| !letter.is_control());
    clean.fold(String::new(), |mut text, letter| {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            letter => text.push(letter),
        }
        text
    })
}
