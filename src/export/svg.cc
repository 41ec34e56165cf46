#include "export/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "export/number_text.h"

namespace stableqat::svg {

namespace {

// Two digits after the point are a hundredth of a pixel.
std::string number(double value) { return fixed_text(value, 2); }

std::string attribute(const char* name, double value) { return std::string(" ") + name + "=\"" + number(value) + "\""; }
std::string attribute(const char* name, const std::string& value) { return std::string(" ") + name + "=\"" + value + "\""; }

std::string closed(const std::string& element, const char* name, const std::string& title) {
  if (title.empty()) return element + "/>\n";
  return element + "><title>" + escaped(title) + "</title></" + name + ">\n";
}

std::string joined(const std::vector<std::pair<double, double>>& points) {
  std::string result;
  for (const auto& [x, y] : points) result += number(x) + "," + number(y) + " ";
  return result;
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += c;
    }
  }
  return result;
}

std::string text(double x, double y, const std::string& content, const char* anchor, const std::string& style) {
  return "<text" + attribute("x", x) + attribute("y", y) + attribute("text-anchor", anchor) + " " + style + ">" + escaped(content) +
         "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, const std::string& stroke) {
  return "<line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) + attribute("y2", y2) + attribute("stroke", stroke) +
         "/>\n";
}

std::string rect(const Rect& area, const std::string& fill, const std::string& title) {
  return closed("<rect" + attribute("x", area.x) + attribute("y", area.y) + attribute("width", area.width) +
                    attribute("height", area.height) + attribute("fill", fill),
                "rect", title);
}

std::string dot(double x, double y, double radius, const std::string& fill, const std::string& title) {
  return closed("<circle" + attribute("cx", x) + attribute("cy", y) + attribute("r", radius) + attribute("fill", fill), "circle", title);
}

std::string polyline(const std::vector<std::pair<double, double>>& points, const std::string& stroke) {
  return "<polyline fill=\"none\" stroke-width=\"1.8\" stroke-linejoin=\"round\"" + attribute("stroke", stroke) +
         attribute("points", joined(points)) + "/>\n";
}

std::string polygon(const std::vector<std::pair<double, double>>& points, const std::string& fill, double opacity) {
  return "<polygon" + attribute("fill", fill) + attribute("fill-opacity", opacity) + attribute("points", joined(points)) + "/>\n";
}

std::string diverging_colour(double t) {
  constexpr std::array<double, 3> kLow{33, 102, 172}, kMiddle{236, 236, 236}, kHigh{178, 24, 43};
  const auto& end = t < 0 ? kLow : kHigh;
  const double share = std::min(std::fabs(t), 1.0);
  std::string colour = "#";
  for (std::size_t i = 0; i < 3; ++i) {
    std::array<char, 4> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned>(std::lround(kMiddle[i] + share * (end[i] - kMiddle[i]))));
    colour += digits.data();
  }
  return colour;
}

std::vector<double> linear_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
  std::vector<double> ticks;
  for (double i = std::floor(low / step); ticks.empty() || ticks.back() < high; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10.0, std::floor(std::log10(low)));; power *= 10) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double tick = digit * power;
      if (tick <= low) ticks.clear();  // the last one that is not above `low` stays
      ticks.push_back(tick);
      if (tick >= high && ticks.size() > 1) return ticks;
    }
  }
}

}  // namespace stableqat::svg
