// Four panels over the blocks of the model, a colour for each kind of layer: signal-to-noise ratio, clipped share, scales with their range;
// and the share of each code, a stacked bar for each layer.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>

#include "export/number_text.h"
#include "export/svg.h"
#include "stableqat/export/distortion.h"

namespace stableqat {

namespace {

using Layers = std::vector<LayerDistortion>;
using svg::Rect;

constexpr double kWidth = 1080;
constexpr double kHeight = 760;
constexpr double kPanelWidth = 450;
constexpr double kPanelHeight = 240;
constexpr double kLeft = 66;
constexpr double kTop = 128;
constexpr double kColumnGap = 84;
constexpr double kRowGap = 92;
constexpr const char* kGrid = "#e3e3e3";
constexpr const char* kQuiet = "fill=\"#666\" font-size=\"11\"";
constexpr std::array kColours{"#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#444444", "#999933"};  // Okabe and Ito's

// Layers of one kind ("mlp.up_proj" of "model.layers.7.mlp.up_proj"), with the block that each belongs to.
struct Kind {
  std::string name;
  std::string colour;
  std::vector<std::pair<double, const LayerDistortion*>> layers;
};

std::string kind_of(const std::string& name) {
  const std::size_t last = name.rfind('.');
  const std::size_t before = last == std::string::npos || last == 0 ? std::string::npos : name.rfind('.', last - 1);
  return before == std::string::npos ? name : name.substr(before + 1);
}

// 7 of "model.layers.7.mlp.up_proj".
std::optional<int> block_of(const std::string& name) {
  const std::size_t first = name.find_first_of("0123456789");
  if (first == std::string::npos || first == 0 || name[first - 1] != '.' || name.size() - first > 100) return std::nullopt;
  int block = 0;
  for (std::size_t i = first; i < name.size() && name[i] >= '0' && name[i] <= '9' && block < 100000; ++i)
    block = 10 * block + name[i] - '0';
  return block;
}

// In the order in which they first come. A layer that is in no block (a head) gets a place behind the last.
std::vector<Kind> kinds_of(const Layers& layers) {
  int last = -1;
  for (const LayerDistortion& layer : layers) last = std::max(last, block_of(layer.name).value_or(-1));
  std::vector<Kind> kinds;
  for (const LayerDistortion& layer : layers) {
    const std::string name = kind_of(layer.name);
    auto kind = std::ranges::find(kinds, name, &Kind::name);
    if (kind == kinds.end()) kind = kinds.insert(kind, {name, kColours[kinds.size() % kColours.size()], {}});
    kind->layers.emplace_back(block_of(layer.name).value_or(last + 1), &layer);
  }
  return kinds;
}

struct Range {
  double low = 0;
  double high = 0;
};

// What a panel draws of a layer: a value, and how far it reaches.
struct Quantity {
  std::string title;
  bool logarithmic = false;
  bool from_zero = false;
  std::function<double(const LayerDistortion&)> value;
  std::function<Range(const LayerDistortion&)> range = {};  // empty = none
  std::function<std::string(double)> label;
};

class LinePanel {
 public:
  LinePanel(const Rect& area, const Quantity& quantity, const std::vector<Kind>& kinds) : area_(area), quantity_(quantity), kinds_(kinds) {
    Range values{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
    for (const Kind& kind : kinds) {
      for (const auto& [block, layer] : kind.layers) {
        blocks_ = std::max(blocks_, block + 1);
        const Range reach = reach_of(*layer);
        if (!is_drawn(*layer)) continue;
        values = {std::min(values.low, reach.low), std::max(values.high, reach.high)};
      }
    }
    if (values.low > values.high) return;  // nothing to draw
    if (quantity.from_zero) values.low = 0;
    if (!quantity.logarithmic && values.high - values.low < 1e-9 * std::max(1.0, std::fabs(values.high))) values.high += 1;
    ticks_ = quantity.logarithmic ? svg::log_ticks(values.low, values.high) : svg::linear_ticks(values.low, values.high, 5);
  }

  std::string draw() const {
    std::string picture = svg::text(area_.x, area_.y - 14, quantity_.title, "start", "font-weight=\"600\"");
    if (ticks_.empty())
      return picture + svg::text(area_.x, area_.y + 20, "nothing: the weights are exactly on their grid", "start", kQuiet);
    for (const double tick : ticks_) {
      picture += svg::line(area_.x, y(tick), area_.right(), y(tick), kGrid);
      picture += svg::text(area_.x - 8, y(tick) + 4, quantity_.label(tick), "end", kQuiet);
    }
    picture += block_axis();
    for (const Kind& kind : kinds_) picture += bands(kind);
    for (const Kind& kind : kinds_) picture += curve(kind);
    return picture;
  }

 private:
  Range reach_of(const LayerDistortion& layer) const {
    const double value = quantity_.value(layer);
    return quantity_.range ? quantity_.range(layer) : Range{value, value};
  }

  bool is_drawn(const LayerDistortion& layer) const {
    const Range reach = reach_of(layer);
    return std::isfinite(reach.low) && std::isfinite(reach.high) && (!quantity_.logarithmic || reach.low > 0);
  }

  double x(double block) const { return area_.x + area_.width * (block + 0.5) / blocks_; }

  double y(double value) const {
    const auto place = [this](double v) { return quantity_.logarithmic ? std::log(v) : v; };
    return area_.bottom() - area_.height * (place(value) - place(ticks_.front())) / (place(ticks_.back()) - place(ticks_.front()));
  }

  std::string block_axis() const {
    std::string picture;
    const double step = blocks_ <= 12 ? 1 : blocks_ <= 40 ? 5 : 10;
    for (double block = 0; block < blocks_; block += step)
      picture += svg::text(x(block), area_.bottom() + 16, number_text(block), "middle", kQuiet);
    return picture + svg::text(area_.right(), area_.bottom() + 32, "block", "end", kQuiet);
  }

  std::string bands(const Kind& kind) const {
    if (!quantity_.range) return "";
    std::vector<std::pair<double, double>> outline;
    for (const auto& [block, layer] : kind.layers) {
      if (is_drawn(*layer)) outline.emplace_back(x(block), y(reach_of(*layer).high));
    }
    for (auto place = kind.layers.rbegin(); place != kind.layers.rend(); ++place) {
      if (is_drawn(*place->second)) outline.emplace_back(x(place->first), y(reach_of(*place->second).low));
    }
    return svg::polygon(outline, kind.colour, 0.1);
  }

  std::string curve(const Kind& kind) const {
    std::vector<std::pair<double, double>> points;
    std::string dots;
    for (const auto& [block, layer] : kind.layers) {
      if (!is_drawn(*layer)) continue;
      const double value = quantity_.value(*layer);
      points.emplace_back(x(block), y(value));
      dots += svg::dot(x(block), y(value), 2.6, kind.colour, layer->name + ": " + quantity_.label(value));
    }
    return svg::polyline(points, kind.colour) + dots;
  }

  Rect area_;
  Quantity quantity_;
  const std::vector<Kind>& kinds_;
  double blocks_ = 1;
  std::vector<double> ticks_;
};

double code_of(const LayerDistortion& layer, std::size_t index) {
  return layer.lowest_code + static_cast<double>(index) * layer.code_stride;
}

std::string code_colour(const LayerDistortion& layer, std::size_t index) {
  const double last = code_of(layer, layer.code_shares.size() - 1);
  return svg::diverging_colour(code_of(layer, index) / std::max({std::fabs(static_cast<double>(layer.lowest_code)), std::fabs(last), 1.0}));
}

// The colours of the codes, from the lowest to the highest; numbers where there is room for them.
std::string code_legend(const Rect& area, const LayerDistortion& layer) {
  const std::size_t count = layer.code_shares.size();
  const double width = std::min(26.0, area.width * 0.75 / static_cast<double>(count));
  const double left = area.right() - width * static_cast<double>(count);
  std::string picture = svg::text(left - 8, area.bottom() + 45, "code", "end", kQuiet);
  for (std::size_t code = 0; code < count; ++code) {
    const double x = left + width * static_cast<double>(code);
    const std::string name = number_text(code_of(layer, code));
    picture += svg::rect({x, area.bottom() + 36, width, 11}, code_colour(layer, code), name);
    if (width >= 14 || code == 0 || code + 1 == count) {
      picture += svg::text(x + width / 2, area.bottom() + 60, name, "middle", kQuiet);
    }
  }
  return picture;
}

std::string share_panel(const Rect& area, const std::vector<Kind>& kinds, std::size_t layers) {
  constexpr double kGap = 8;  // between kinds
  std::string picture = svg::text(area.x, area.y - 14, "Share of each code, a bar for each layer", "start", "font-weight=\"600\"");
  for (const int percent : {0, 25, 50, 75, 100}) {
    const double y = area.bottom() - area.height * percent / 100.0;
    picture += svg::line(area.x, y, area.right(), y, kGrid);
    picture += svg::text(area.x - 8, y + 4, std::to_string(percent) + " %", "end", kQuiet);
  }
  if (layers == 0) return picture;
  const double width = (area.width - kGap * static_cast<double>(kinds.size() - 1)) / static_cast<double>(layers);
  double x = area.x;
  for (const Kind& kind : kinds) {
    const double left = x;
    for (const auto& [block, layer] : kind.layers) {
      double bottom = area.bottom();
      for (std::size_t code = 0; code < layer->code_shares.size(); ++code) {
        const double height = area.height * layer->code_shares[code];
        bottom -= height;
        picture += svg::rect(
            {x, bottom, width * 1.02, height}, code_colour(*layer, code),
            layer->name + ", code " + number_text(code_of(*layer, code)) + ": " + fixed_text(100 * layer->code_shares[code], 1) + " %");
      }
      x += width;
    }
    picture += svg::rect({left, area.bottom() + 4, x - left, 3}, kind.colour);
    const std::string name = kind.name.substr(kind.name.rfind('.') + 1);
    if (x - left >= 40) picture += svg::text((left + x) / 2, area.bottom() + 20, name.substr(0, name.find("_proj")), "middle", kQuiet);
    x += kGap;
  }
  return picture + code_legend(area, *kinds.front().layers.front().second);
}

// What all layers have in common, with each weight counted once.
std::string summary(const Layers& layers) {
  double weights = 0;
  double clipped = 0;
  double lowest = std::numeric_limits<double>::infinity();
  std::string noisiest;
  for (const LayerDistortion& layer : layers) {
    const double count = static_cast<double>(layer.rows) * static_cast<double>(layer.columns);
    weights += count;
    clipped += count * layer.clipped_share;
    if (layer.signal_to_noise_db < lowest) {
      lowest = layer.signal_to_noise_db;
      noisiest = layer.name;
    }
  }
  std::string text = std::to_string(layers.size()) + " layers, " + fixed_text(weights / 1e6, 1) + " million weights, " +
                     fixed_text(weights > 0 ? 100 * clipped / weights : 0, 2) + " % of them clipped";
  if (std::isfinite(lowest)) text += "; lowest ratio " + fixed_text(lowest, 1) + " dB, " + noisiest;
  return text;
}

std::string kind_legend(const std::vector<Kind>& kinds) {
  std::string picture;
  double x = kLeft;
  for (const Kind& kind : kinds) {
    picture += svg::rect({x, 73, 18, 4}, kind.colour) + svg::text(x + 24, 79, kind.name, "start");
    x += 42 + 6.6 * static_cast<double>(kind.name.size());
  }
  return picture;
}

std::vector<Quantity> quantities() {
  const auto three_digits = [](double v) { return number_text(v, 3); };
  return {{.title = "Signal-to-noise ratio of the quantized weight, dB",
           .value = [](const LayerDistortion& l) { return l.signal_to_noise_db; },
           .label = three_digits},
          {.title = "Clipped weights, %",
           .from_zero = true,
           .value = [](const LayerDistortion& l) { return 100 * l.clipped_share; },
           .label = three_digits},
          {.title = "Scale: median, and the range of all of a layer's",
           .logarithmic = true,
           .value = [](const LayerDistortion& l) { return l.scale_median; },
           .range =
               [](const LayerDistortion& l) {
                 return Range{l.scale_min, l.scale_max};
               },
           .label = three_digits}};
}

}  // namespace

std::string to_svg(const std::vector<LayerDistortion>& layers) {
  const std::vector<Kind> kinds = kinds_of(layers);
  const auto place = [](int row, int column) {
    return Rect{kLeft + column * (kPanelWidth + kColumnGap), kTop + row * (kPanelHeight + kRowGap), kPanelWidth, kPanelHeight};
  };
  const std::vector<Quantity> drawn = quantities();
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number_text(kWidth) + "\" height=\"" + number_text(kHeight) +
         "\" viewBox=\"0 0 " + number_text(kWidth) + " " + number_text(kHeight) +
         "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12.5\" fill=\"#222\">\n" +
         svg::rect({0, 0, kWidth, kHeight}, "#ffffff") +
         svg::text(kLeft, 32, "What quantization does to the weights", "start", "font-size=\"18\" font-weight=\"600\"") +
         svg::text(kLeft, 52, summary(layers), "start", "fill=\"#555\"") + kind_legend(kinds) +
         LinePanel(place(0, 0), drawn[0], kinds).draw() + LinePanel(place(0, 1), drawn[1], kinds).draw() +
         LinePanel(place(1, 0), drawn[2], kinds).draw() + share_panel(place(1, 1), kinds, layers.size()) + "</svg>\n";
}

}  // namespace stableqat
