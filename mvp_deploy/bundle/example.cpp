// Classify images with models/@FILE@ in ONNX Runtime: needs its C++ headers and library, nothing else.
//
//   c++ -std=c++17 example.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o example
//   ./example models/@FILE@ IMAGE.ppm …
//
// Images are binary PPM files of @WIDTH@ x @HEIGHT@ pixels, resized and cropped as preprocessing.json says.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int64_t WIDTH = @WIDTH@, HEIGHT = @HEIGHT@;
constexpr std::array<float, 3> MEAN = {@MEAN@}, STD = {@STD@};
const std::vector<std::string> LABELS = {@LABELS@};

// From a PPM file to the model's input, [3, HEIGHT, WIDTH]: bytes / 255, less the mean, over the standard deviation.
std::vector<float> input_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();  // the one white space before the pixels
  if (!file || kind != "P6" || most != 255 || width != WIDTH || height != HEIGHT)
    throw std::runtime_error(path + " is not a binary PPM of @WIDTH@ x @HEIGHT@ pixels");
  std::vector<uint8_t> pixels(3 * WIDTH * HEIGHT);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size())))
    throw std::runtime_error(path + " ends too early");
  std::vector<float> input(pixels.size());
  for (int64_t k = 0; k < WIDTH * HEIGHT; ++k)
    for (int64_t channel = 0; channel < 3; ++channel)
      input[channel * WIDTH * HEIGHT + k] = (pixels[3 * k + channel] / 255.0f - MEAN[channel]) / STD[channel];
  return input;
}

int main(int count, char** arguments) {
  if (count < 3) return std::fprintf(stderr, "usage: %s MODEL.onnx IMAGE.ppm ...\n", arguments[0]), 2;
  try {
    Ort::Env env;
#ifdef _WIN32
    const std::string name = arguments[1];
    Ort::Session session(env, std::wstring(name.begin(), name.end()).c_str(), Ort::SessionOptions());
#else
    Ort::Session session(env, arguments[1], Ort::SessionOptions());
#endif
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::array<int64_t, 4> shape = {1, 3, HEIGHT, WIDTH};
    const char *inputs[] = {"input"}, *outputs[] = {"logits"};
    for (int k = 2; k < count; ++k) {
      std::vector<float> input = input_of(arguments[k]);
      const auto tensor =
          Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape.data(), shape.size());
      const auto found = session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);
      const float* logits = found[0].GetTensorData<float>();
      const size_t best = std::max_element(logits, logits + LABELS.size()) - logits;
      double sum = 0;
      for (size_t label = 0; label < LABELS.size(); ++label) sum += std::exp(logits[label] - logits[best]);
      std::printf("%s: %s (%.1f%%)\n", arguments[k], LABELS[best].c_str(), 100 / sum);
    }
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
