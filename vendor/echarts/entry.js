// The parts of Apache ECharts that the report draws with.
import * as echarts from 'echarts/core';
import { CustomChart, LineChart, ScatterChart } from 'echarts/charts';
import { AxisPointerComponent, GridComponent, MarkAreaComponent, MarkLineComponent, TooltipComponent } from 'echarts/components';
import { CanvasRenderer } from 'echarts/renderers';

echarts.use([
  AxisPointerComponent, CanvasRenderer, CustomChart, GridComponent, LineChart, MarkAreaComponent, MarkLineComponent, ScatterChart,
  TooltipComponent,
]);
window.echarts = { init: echarts.init, version: echarts.version };
