package trainer

// Error is what errors.As finds in every error of this package:
//
//	var e trainer.Error
//	if errors.As(err, &e) && e.Kind() == trainer.KindInput { … }
type Error interface {
	error
	Kind() string
}

// The kinds of errors. What was interrupted also is the error of its context,
// for errors.Is.
const (
	KindUsage       = "usage"       // an option or a recipe key
	KindInput       = "input"       // a file, a dataset
	KindEnvironment = "environment" // no such backend, no space, no permission
	KindCheck       = "check"       // a check that was asked for failed
	KindInterrupted = "interrupted" // by the context
)
