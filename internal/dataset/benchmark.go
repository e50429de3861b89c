package dataset

// Benchmark is a named classification set: what CLIP is asked and how the
// answers are counted.
type Benchmark struct {
	Name       string
	Title      string
	ClassNames []string
	Templates  []string // "{c}" stands for the class name
	// Wnids are the folder names of the classes (ImageNet sets), in class order.
	Wnids []string
	// Subset maps the set's class index to the ImageNet-1k index; nil when the
	// set is not a subset of it.
	Subset []int
	Metric string // "top1" or "mean_per_class"
	Source string // where the data comes from
}

// Benchmarks lists the known sets in name order.
func Benchmarks() []Benchmark { return nil }

// LookupBenchmark finds a set by name.
func LookupBenchmark(name string) (Benchmark, bool) { return Benchmark{}, false }
