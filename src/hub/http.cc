#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <exception>
#include <new>
#include <string_view>
#include <utility>

#include "hub/stop.h"
#include "stableqat/base/version.h"

namespace stableqat::hub {

namespace {

constexpr std::size_t kErrorBodyBytes = 4096;
constexpr long kMaxRedirects = 10;
constexpr long kConnectSeconds = 30;

void initialize_curl() {
  static const CURLcode result = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (result != CURLE_OK) throw std::bad_alloc();
}

// Failures that another attempt cannot mend.
bool is_lasting(CURLcode code) {
  switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      return true;
    default:
      return false;
  }
}

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

// What the callbacks of one transfer share. Exceptions must not pass through C code: the first is kept and thrown afterwards.
class HttpClient::Exchange {
 public:
  Exchange(const BodySink& sink, const StopRequested& stop) : sink_(sink), stop_(stop) {}

  HttpResponse& response() { return response_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

  static std::size_t on_header(char* data, std::size_t, std::size_t size, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    return exchange.guarded([&] { exchange.take_header({data, size}); }) ? size : 0;
  }

  static std::size_t on_body(char* data, std::size_t, std::size_t size, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    return exchange.guarded([&] { exchange.take_body({data, size}); }) ? size : CURL_WRITEFUNC_ERROR;
  }

  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& exchange = *static_cast<Exchange*>(self);
    return exchange.guarded([&] { throw_if_stopped(exchange.stop_); }) ? 0 : 1;
  }

 private:
  template <class Action>
  bool guarded(const Action& action) {
    if (error_) return false;
    try {
      action();
    } catch (...) {
      error_ = std::current_exception();
    }
    return !error_;
  }

  // A status line begins the headers of another response: that of a redirect's target, or the one after "100 Continue".
  void take_header(std::string_view line) {
    if (line.starts_with("HTTP/")) {
      response_ = {};
      const std::string_view code = line.substr(std::min(line.find(' '), line.size()));
      const std::string_view digits = trimmed(code).substr(0, 3);
      std::from_chars(digits.data(), digits.data() + digits.size(), response_.status);
      return;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    response_.headers[std::move(name)] = trimmed(line.substr(colon + 1));
  }

  void take_body(std::string_view data) {
    if (response_.ok()) {
      sink_(response_, std::as_bytes(std::span(data)));
    } else {
      response_.error_body += data.substr(0, kErrorBodyBytes - std::min(kErrorBodyBytes, response_.error_body.size()));
    }
  }

  const BodySink& sink_;
  const StopRequested& stop_;
  HttpResponse response_;
  std::exception_ptr error_;
};

void HttpClient::Close::operator()(void* handle) const noexcept { curl_easy_cleanup(handle); }

HttpClient::HttpClient(std::chrono::seconds stall, StopRequested stop) : stall_(stall), stop_(std::move(stop)) {
  initialize_curl();
  handle_.reset(curl_easy_init());
  if (!handle_) throw std::bad_alloc();
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::get(const HttpRequest& request, const BodySink& sink) {
  CURL* const handle = handle_.get();
  Exchange exchange(sink, stop_);
  std::array<char, CURL_ERROR_SIZE> message{};
  const std::string range = std::to_string(request.first_byte) + "-";
  const std::string agent = "stableqat/" + std::string(version());

  curl_easy_reset(handle);
  curl_easy_setopt(handle, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(handle, CURLOPT_USERAGENT, agent.c_str());
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS_STR, request.url.starts_with("https:") ? "https" : "http,https");
  curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(handle, CURLOPT_MAXREDIRS, kMaxRedirects);
  curl_easy_setopt(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, static_cast<long>(stall_.count()));
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, message.data());
  if (!request.token.empty()) {
    curl_easy_setopt(handle, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(handle, CURLOPT_XOAUTH2_BEARER, request.token.c_str());
  }
  if (request.first_byte > 0) curl_easy_setopt(handle, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, &Exchange::on_header);
  curl_easy_setopt(handle, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &Exchange::on_body);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, &Exchange::on_progress);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &exchange);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);

  const CURLcode code = curl_easy_perform(handle);
  exchange.rethrow();
  if (code != CURLE_OK) {
    throw TransferError(message[0] != '\0' ? std::string(message.data()) : std::string(curl_easy_strerror(code)), !is_lasting(code));
  }
  curl_off_t wait = 0;
  if (curl_easy_getinfo(handle, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0) {
    exchange.response().retry_after = std::chrono::seconds(wait);
  }
  return std::move(exchange.response());
}

}  // namespace stableqat::hub
