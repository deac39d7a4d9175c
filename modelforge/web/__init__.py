"""The pages' common room: one frame, one style and one way to draw a curve."""

from modelforge.web.charts import Chart, charts, histogram, overlaid
from modelforge.web.page import render

__all__ = ["Chart", "charts", "histogram", "overlaid", "render"]
