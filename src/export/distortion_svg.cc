// Two panels: signal-to-noise ratio over the blocks of the model, a line for each kind of layer; shares of the codes, a stacked bar for
// each layer.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>

#include "export/number_text.h"
#include "stableqat/export/distortion.h"

namespace stableqat {

namespace {

constexpr double kWidth = 960;
constexpr double kPanelHeight = 240;
constexpr double kLeft = 60;
constexpr double kRight = 150;  // for the legend
constexpr double kTop = 40;
constexpr double kGap = 70;
constexpr std::array kColours{"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"};

std::string colour(std::size_t index) { return kColours[index % kColours.size()]; }

std::string number(double value) { return fixed_text(value, 1); }

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

std::string label(double x, double y, const std::string& text, const char* anchor = "start") {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\">" + escaped(text) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) +
         "\" stroke=\"#ccc\"/>\n";
}

std::string box(double x, double y, double width, double height, const std::string& fill) {
  return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + fixed_text(width, 2) + "\" height=\"" + fixed_text(height, 2) +
         "\" fill=\"" + fill + "\"/>\n";
}

// "mlp.up_proj" of "model.layers.7.mlp.up_proj".
std::string kind_of(const std::string& name) {
  const std::size_t before = name.rfind('.', name.rfind('.') - 1);
  return before == std::string::npos ? name : name.substr(before + 1);
}

std::string ratio_panel(const std::vector<LayerDistortion>& layers, double top) {
  std::map<std::string, std::vector<double>> kinds;  // in the order of the blocks
  double highest = 0;
  std::size_t longest = 1;
  for (const LayerDistortion& layer : layers) {
    if (!std::isfinite(layer.signal_to_noise_db)) continue;
    auto& values = kinds[kind_of(layer.name)];
    values.push_back(layer.signal_to_noise_db);
    highest = std::max(highest, layer.signal_to_noise_db);
    longest = std::max(longest, values.size());
  }
  const double scale = 5 * std::ceil(std::max(highest, 1.0) / 5);
  const double plot_width = kWidth - kLeft - kRight;
  const auto x = [&](std::size_t block) { return kLeft + plot_width * (static_cast<double>(block) + 0.5) / static_cast<double>(longest); };
  const auto y = [&](double decibels) { return top + kPanelHeight * (1 - decibels / scale); };
  std::string svg = label(kLeft, top - 12, "Signal-to-noise ratio of the quantized weight (dB), by block");
  for (double decibels = 0; decibels <= scale; decibels += 5) {
    svg += line(kLeft, y(decibels), kWidth - kRight, y(decibels)) + label(kLeft - 8, y(decibels) + 4, number_text(decibels), "end");
  }
  std::size_t index = 0;
  for (const auto& [kind, values] : kinds) {
    std::string points;
    for (std::size_t block = 0; block < values.size(); ++block) points += number(x(block)) + "," + number(y(values[block])) + " ";
    svg += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + colour(index) + "\" points=\"" + points + "\"/>\n";
    svg += box(kWidth - kRight + 10, top + 18 * static_cast<double>(index), 10, 10, colour(index));
    svg += label(kWidth - kRight + 26, top + 18 * static_cast<double>(index) + 10, kind);
    ++index;
  }
  return svg;
}

std::string share_panel(const std::vector<LayerDistortion>& layers, double top) {
  const double plot_width = kWidth - kLeft - kRight;
  const double width = plot_width / static_cast<double>(std::max<std::size_t>(layers.size(), 1));
  std::string svg = label(kLeft, top - 12, "Share of each code (from the lowest, bottom up), a bar for each layer");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    double bottom = top + kPanelHeight;
    for (std::size_t code = 0; code < layers[i].code_shares.size(); ++code) {
      const double height = kPanelHeight * layers[i].code_shares[code];
      bottom -= height;
      svg += box(kLeft + width * static_cast<double>(i), bottom, width, height, colour(code));
    }
  }
  for (const int percent : {0, 50, 100}) {
    svg += label(kLeft - 8, top + kPanelHeight * (1 - percent / 100.0) + 4, std::to_string(percent) + " %", "end");
  }
  if (layers.empty()) return svg;
  for (std::size_t code = 0; code < std::min<std::size_t>(layers[0].code_shares.size(), 16); ++code) {
    const double y = top + kPanelHeight - 15 * static_cast<double>(code) - 10;
    svg += box(kWidth - kRight + 10, y, 10, 10, colour(code));
    svg += label(kWidth - kRight + 26, y + 10,
                 "code " + std::to_string(layers[0].lowest_code + static_cast<int>(code) * layers[0].code_stride));
  }
  return svg;
}

}  // namespace

std::string to_svg(const std::vector<LayerDistortion>& layers) {
  const double height = kTop + 2 * kPanelHeight + kGap + 20;
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(kWidth) + "\" height=\"" + number(height) +
         "\" font-family=\"sans-serif\" font-size=\"12\">\n" + box(0, 0, kWidth, height, "#fff") + ratio_panel(layers, kTop) +
         share_panel(layers, kTop + kPanelHeight + kGap) + "</svg>\n";
}

}  // namespace stableqat
