package dataset

import (
	"context"

	"github.com/evatool/evatool/internal/fault"
)

func openParquet(ctx context.Context, st storage, names []string, o Options) (Dataset, error) {
	return nil, fault.Inputf("%s: not a table of images", names[0])
}
