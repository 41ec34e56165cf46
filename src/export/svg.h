// Elements of an SVG picture as text. Coordinates in pixels, from the upper left.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace stableqat::svg {

struct Rect {
  double x = 0, y = 0, width = 0, height = 0;

  double right() const { return x + width; }
  double bottom() const { return y + height; }
};

// `text` with the characters that XML reserves spelled out.
std::string escaped(const std::string& text);

// `anchor`: "start", "middle" or "end". `style`: more attributes, as text.
std::string text(double x, double y, const std::string& content, const char* anchor = "start", const std::string& style = "");
std::string line(double x1, double y1, double x2, double y2, const std::string& stroke);
// `title` is shown when the pointer rests on it; empty = none.
std::string rect(const Rect& area, const std::string& fill, const std::string& title = "");
std::string dot(double x, double y, double radius, const std::string& fill, const std::string& title);
std::string polyline(const std::vector<std::pair<double, double>>& points, const std::string& stroke);
std::string polygon(const std::vector<std::pair<double, double>>& points, const std::string& fill, double opacity);

// "#rrggbb" between blue (-1), light grey (0) and red (1).
std::string diverging_colour(double t);

// Round numbers, about `count` of them, that cover low .. high: multiples of 1, 2 or 5 times a power of ten. low < high.
std::vector<double> linear_ticks(double low, double high, int count);
// 1, 2 and 5 times powers of ten around low .. high. 0 < low <= high.
std::vector<double> log_ticks(double low, double high);

}  // namespace stableqat::svg
