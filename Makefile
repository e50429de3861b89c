# evatool needs Go 1.26, a C compiler and make.
# The Go backend's fast kernels need the SIMD experiment, which only the
# environment can switch on.
export GOEXPERIMENT = simd
export CGO_ENABLED = 1
CC ?= cc

.PHONY: demo test build bench fuzz bench-learning lint tools release clean

demo: build
	@bin/evatool backend install cpu || echo "no CPU plugin could be had: the demo runs on the Go backend (slower)"
	bin/evatool demo --out out/demo

test: lint build
	@bin/evatool backend install cpu || echo "no CPU plugin could be had: the XLA tests are skipped (to get it: bin/evatool backend install cpu [--wheel FILE])"
	go test -timeout 20m ./...

build: tools
	@mkdir -p bin
	go build -ldflags="-s -w -X github.com/evatool/evatool/internal/runlog.commit=$$(git describe --always --abbrev=40 --match=nothing --dirty 2>/dev/null)" -o bin/evatool .

lint: tools
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "not gofmt-ed: $$bad"; exit 1; }
	go vet ./...
	go tool staticcheck ./...

# make bench PYTHON=/path/of/a/python with torch, torchvision, open_clip,
# safetensors and scikit-learn: every speed beside its peer's, in one run, on one
# page. Without PYTHON only evatool is measured. PHOTOS, a folder with a folder a
# class, adds the evaluation from end to end.
bench: build
	@mkdir -p out
	go run ./benchmarks/all --python "$(PYTHON)" --data "$(PHOTOS)" -o out/bench.md

# Every fuzz target for FUZZTIME; a crash leaves its input in testdata/fuzz.
FUZZTIME ?= 10s
fuzz: tools
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$dir/*_test.go); do \
	    echo "$$dir $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir </dev/null || exit 1; \
	  done; \
	done

bench-learning: build
	bin/evatool backend install cpu
	go run ./benchmarks/learning

# make release [VERSION=1.2.3]: archives for the systems whose C compiler is
# here, with completions and man pages, and SHA256SUMS, in dist/.
release: tools
	go run ./internal/release -version "$(VERSION)" -out dist

tools:
	@command -v go >/dev/null || { echo "evatool needs Go 1.26 or later (https://go.dev/dl)"; exit 1; }
	@command -v $(CC) >/dev/null || { echo "evatool needs a C compiler (install gcc or clang, or set CC)"; exit 1; }

clean:
	rm -rf bin out dist
