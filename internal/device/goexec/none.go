//go:build !amd64 || !goexperiment.simd

package goexec

func install() bool { return false }
