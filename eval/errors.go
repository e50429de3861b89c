package eval

// Error is what errors.As finds in every error of this package:
//
//	var e eval.Error
//	if errors.As(err, &e) && e.Kind() == eval.KindInput { … }
type Error interface {
	error
	Kind() string
}

// The kinds of errors. What was interrupted also is the error of its context,
// for errors.Is.
const (
	KindUsage       = "usage"       // an option, or a call that cannot be meant
	KindInput       = "input"       // a file, a dataset, a picture
	KindEnvironment = "environment" // no such backend, no space, no permission
	KindCheck       = "check"       // a check that was asked for failed (Expect)
	KindInterrupted = "interrupted" // by the context
)
