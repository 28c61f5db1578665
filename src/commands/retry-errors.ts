import { findServer } from '../config/config.ts';
import { WalwardenError } from '../errors.ts';
import { openServer } from '../server.ts';
import { count, type CommandContext, type Report } from './command.ts';
import { adviceOf, choose, examine, resolve } from './errors.ts';

/**
 * `errors retry SERVER [FILE|--all]`: what is understood by now, after an upgrade
 * or a corrected option, goes back to where it was delivered, never over another
 * file, and the next pass archives it; what is archived already with the same
 * content is dropped. Everything else stays as it is: the exit status is 1 then.
 */
export async function retryErrors(
  context: CommandContext,
  name: string,
  file: string | undefined,
  options: { readonly all?: boolean },
): Promise<Report> {
  if ((file === undefined) !== (options.all === true)) {
    throw new WalwardenError('usage', 'errors retry needs the name of one file, or --all', {
      hint: `see: walwarden errors list ${name}`,
    });
  }
  await using server = openServer(context.config, findServer(context.config, name), context.logger);
  await using _lock = await server.lockArchive();
  const done: { entry: string; action: string; retried: boolean }[] = [];
  for (const chosen of await choose(server, file)) {
    const finding = await examine(server, chosen);
    const isUnderstood = finding.state === 'archivable' || finding.state === 'identical';
    const { resolved, action } = isUnderstood
      ? await resolve(server, chosen, finding, file === undefined ? null : {})
      : { resolved: false, action: `left: ${finding.text}; ${adviceOf(finding)}` };
    context.logger.info({ server: name, file: chosen.entry, retried: resolved }, `${chosen.entry}: ${action}`);
    done.push({ entry: chosen.entry, action, retried: resolved });
  }
  const left = done.filter(({ retried }) => !retried).length;
  const text =
    done.map(({ entry, action }) => `\t${JSON.stringify(entry)}: ${action}\n`).join('') +
    `Server ${name}: ${count(done.length - left, 'file')} retried, ${left} left\n`;
  return { text, json: { server: name, files: done }, exitCode: left === 0 ? 0 : 1 };
}
