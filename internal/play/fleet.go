package play

import (
	"context"

	"github.com/labstack/echo/v4"
)

// fleetRoutes are those about the registrations of a log.
func (s *server) fleetRoutes(*echo.Group) {}

// hasLog and hasDPS report whether there are registrations to show, and whether they come from a stand-in that runs.
func (s *server) hasLog() bool { return false }
func (s *server) hasDPS() bool { return false }

// followFleet sends an event whenever there are more registrations, until ctx ends.
func (s *server) followFleet(_ context.Context, _ *stream) {}
