package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
)

// fetched is what fetch reports about a name.
type fetched struct {
	Name       string   `json:"name"`
	Path       string   `json:"path"` // of the weights, or of the index of their shards
	Files      []string `json:"files"`
	Repository string   `json:"repository,omitempty"` // on the hub
	Commit     string   `json:"commit,omitempty"`
	State      string   `json:"state,omitempty"` // of weights that evatool models lists
}

func newFetch(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "fetch NAME...",
		Short: "Fetch models by name into the Hugging Face cache, verified",
		Long: `Fetch the weights that names stand for, the files beside them that describe them,
and the tokenizer if it is in another repository, and print the path of the
weights. Every command that takes a model does the same with a name (the
tokenizer with the first text); fetch does only that. A NAME is

  EVA02-CLIP-B-16, ViT-B-32/laion2b_s34b_b79k   a name that evatool models lists
  openai:ViT-B-32                               OpenAI's own file
  hf:OWNER/NAME[@REVISION][/FILE]               a repository of the Hugging Face hub

Without FILE, a repository's weights are open_clip_model.safetensors, then
open_clip_pytorch_model.bin, model.safetensors, pytorch_model.bin (or their
indexes), or its only file of weights. A path that exists always wins.

The cache is huggingface_hub's, and each reads the other's files: HF_HOME,
HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HTTPS_PROXY have the same
meaning. A broken download resumes where it stopped. Every file must have the
hash that the hub or evatool's own table states; it is computed again each time
the file is used. With HF_HUB_OFFLINE=1 or --offline no server is contacted. The token
is sent only to the hub.` + exitStatus,
		Example: `  evatool fetch EVA02-CLIP-B-16
  evatool fetch hf:QuanSun/EVA-CLIP/EVA02_B_psz14to16.pt openai:ViT-L-14 --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := []fetched{}
			for _, name := range args {
				f, err := hub.Find(cmd.Context(), name, hub.Options{Offline: app.Offline, Texts: true, Log: app.Log})
				if err != nil {
					return err
				}
				if f.Files == nil { // a path
					if _, err := os.Stat(name); err != nil {
						return fault.File(name, "a checkpoint, or a name of evatool models", err)
					}
					f.Files = []string{f.Path}
				}
				e := fetched{Name: name, Path: f.Path, Files: f.Files, Repository: f.Repo, Commit: f.Commit}
				if f.Weights != nil {
					state, why := hub.StateOf(*f.Weights)
					if e.State = string(state); state != hub.Works {
						app.Log.Warn("fetched, but "+string(state), "name", name, "because", why)
					}
				}
				list = append(list, e)
				app.Printf("%s\n", f.Path)
			}
			if app.JSON {
				return app.PrintJSON(list)
			}
			return nil
		},
	}
}
