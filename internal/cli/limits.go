//go:build linux && cgo

package cli

import "C" // limits.c is part of this package
