package play

import (
	"context"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/author/folderwatch"
)

func (s *server) eventRoutes(api *echo.Group) {
	api.GET("/events", s.follow)
}

// follow sends an event with all files now and whenever the folder changes, until the page goes.
func (s *server) follow(c echo.Context) error {
	watcher, err := folderwatch.New()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Watch(s.Workspace.Folder()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Request().Context())
	events := newStream(c)
	var fleet sync.WaitGroup
	saved := make(chan struct{}, 1)
	fleet.Go(func() { s.followFleet(ctx, events, saved) })
	defer fleet.Wait()
	defer cancel()
	for ctx.Err() == nil {
		if err := s.sendFiles(events); err != nil {
			return err
		}
		if err := watcher.Wait(ctx); err != nil {
			return err
		}
		select {
		case saved <- struct{}{}:
		default: // one that was not taken yet says the same
		}
		// A folder can go while it is listed; the next change tells.
		_ = watcher.Watch(s.Workspace.Folder())
	}
	return nil
}

func (s *server) sendFiles(events *stream) error {
	files, err := s.Workspace.Files()
	if err != nil {
		return err
	}
	return events.send("files", map[string]any{"files": files})
}
