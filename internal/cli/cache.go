package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/usercache"
)

func newCache(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "List and clear evatool's caches",
		Long: `List or clear evatool's caches in the user's cache folder:

` + cachesHold() + `
All are made again when needed, features by encoding the images again. Installed
plugins are not a cache: see evatool backend.` + exitStatus,
		Example: `  evatool cache list
  evatool cache clear`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheList(app), newCacheClear(app))
	return cmd
}

func newCacheList(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show each cache, its folder and its size",
		Long:  `Show each cache: how many files it holds, their size, and its folder.` + exitStatus,
		Example: `  evatool cache list
  evatool cache list --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return eachCache(app, nil, "", usercache.Cache.Use)
		},
	}
}

func newCacheClear(app *App) *cobra.Command {
	names := cacheNames()
	return &cobra.Command{
		Use:   "clear [NAME...]",
		Short: "Remove the files of all caches, or of those named",
		Long: `Remove the files of all caches, or of those named (` + strings.Join(names, ", ") + `).
Anything that evatool did not put there stays. A command that is using a cache
is not disturbed, with one exception: a probe needs its features until it ends, and
stops without them.` + exitStatus,
		Example: `  evatool cache clear
  evatool cache clear compiled`,
		ValidArgs: names,
		Args: func(_ *cobra.Command, args []string) error {
			for _, a := range args {
				if !slices.Contains(names, a) {
					return fault.Usagef("cache clear %s: no such cache; give %s, or nothing for all", fault.Name(a), strings.Join(names, " or "))
				}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return eachCache(app, args, "removed: ", usercache.Cache.Clear)
		},
	}
}

// cachesHold lists the caches and what is in them.
func cachesHold() (list string) {
	for _, c := range usercache.All {
		list += fmt.Sprintf("  %s: %s\n", c.Name, c.Holds)
	}
	return list
}

func cacheNames() (names []string) {
	for _, c := range usercache.All {
		names = append(names, c.Name)
	}
	return names
}

// eachCache calls f for the named caches, or for all, and prints what they hold or
// held.
func eachCache(app *App, names []string, done string, f func(usercache.Cache) (usercache.Use, error)) error {
	var all []usercache.Use
	for _, c := range usercache.All {
		if len(names) > 0 && !slices.Contains(names, c.Name) {
			continue
		}
		u, err := f(c)
		if err != nil {
			return err
		}
		all = append(all, u)
		app.Printf("%s%-12s %6d files %10s  %s (%s)\n", done, u.Name, u.Files, megabytes(u.Bytes), u.Folder, u.Holds)
	}
	if app.JSON {
		return app.PrintJSON(map[string]any{"caches": all})
	}
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
