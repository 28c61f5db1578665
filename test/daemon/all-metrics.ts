import { withView } from './metrics-view.ts';

/** Every metric of a daemon with something to tell: its type and the labels that its series have, by name. */
export async function allMetrics(): Promise<ReadonlyMap<string, { readonly type: string; readonly help: string }>> {
  return withView({}, async ({ metrics, view }) => {
    metrics.request('main', 'get', 200, 1, 0.1);
    const text = await metrics.text(view, new Set(['main']));
    const helps = new Map([...text.matchAll(/^# HELP (\S+) (.*)$/gm)].map(([, name = '', help = '']) => [name, help]));
    const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
    return new Map(types.map(([, name = '', type = '']) => [name, { type, help: helps.get(name) ?? '' }]));
  });
}
