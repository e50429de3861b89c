package trainer_test

import (
	"fmt"
	"log"

	"github.com/evatool/evatool/trainer"
)

func ExampleDryRun() {
	r, err := trainer.LoadRecipe("EVA02-CLIP-B-16", "batch=4096")
	if err != nil {
		log.Fatal(err)
	}
	plan, err := trainer.DryRun(r, trainer.DryRunOptions{DeviceCount: 8, Rate: 20000})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.0f M parameters, batches of 4096 in %d parts on %d devices\n", float64(plan.Params)/1e6, plan.Parts, plan.Devices)
	// Output: 150 M parameters, batches of 4096 in 1 parts on 8 devices
}
