//go:build !amd64 || !goexperiment.simd

package goexec

import (
	"github.com/evatool/evatool/internal/device/kernels"
	"github.com/gomlx/compute"
)

func use(compute.Backend, kernels.Threads) bool { return false }

func uses(compute.Backend) bool { return false }

func release(compute.Backend) {}
