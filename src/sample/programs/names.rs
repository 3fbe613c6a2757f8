//! Names: a process, or the id of an application -> what people call the program.

use std::path::{Path, PathBuf};

use super::process::Process;

/// Where a desktop finds the applications that are installed, below the root.
const APPLICATIONS: [&str; 4] = [
    "usr/share/applications",
    "usr/local/share/applications",
    "var/lib/flatpak/exports/share/applications",
    "var/lib/snapd/desktop/applications",
];
/// How much of such a file is looked at.
const DESKTOP_FILE_MAX: u64 = 64 * 1024;

/// Programs whose file has another name than they have.
const CALLED: [(&str, &str); 30] = [
    ("brave", "Brave"),
    ("brave-browser", "Brave"),
    ("chrome", "Google Chrome"),
    ("google-chrome", "Google Chrome"),
    ("google-chrome-stable", "Google Chrome"),
    ("chromium", "Chromium"),
    ("chromium-browser", "Chromium"),
    ("code", "Visual Studio Code"),
    ("code-oss", "Visual Studio Code"),
    ("discord", "Discord"),
    ("firefox", "Firefox"),
    ("firefox-bin", "Firefox"),
    ("firefox-esr", "Firefox"),
    ("msedge", "Microsoft Edge"),
    ("microsoft-edge", "Microsoft Edge"),
    ("obs", "OBS Studio"),
    ("opera", "Opera"),
    ("signal-desktop", "Signal"),
    ("slack", "Slack"),
    ("soffice.bin", "LibreOffice"),
    ("spotify", "Spotify"),
    ("steam", "Steam"),
    ("steamwebhelper", "Steam"),
    ("telegram-desktop", "Telegram"),
    ("thunderbird", "Thunderbird"),
    ("thunderbird-bin", "Thunderbird"),
    ("vivaldi-bin", "Vivaldi"),
    ("blender", "Blender"),
    ("gimp", "GIMP"),
    ("vlc", "VLC"),
];

/// Programs that run what is named after them: a script or an archive is what people have started.
const INTERPRETERS: [&str; 14] =
    ["python", "node", "nodejs", "java", "ruby", "perl", "bash", "sh", "dash", "zsh", "fish", "php", "deno", "bun"];

/// What an application is called, by its id.
pub(super) fn of_app(root: &Path, id: &str) -> String {
    let last = id.rsplit('.').next().unwrap_or(id);
    desktop_name(root, id).or_else(|| called(&last.to_lowercase())).unwrap_or_else(|| last.to_owned())
}

/// What a program is called, by its first process.
pub(super) fn of_process(root: &Path, process: &Process) -> String {
    let file = file_name(process);
    if INTERPRETERS.contains(&file.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')) {
        return script(process).unwrap_or(file);
    }
    called(&file.to_lowercase()).or_else(|| desktop_name(root, &file)).unwrap_or(file)
}

/// The name of a game that Steam has started, which is that of its folder: `steamapps/common/NAME/`.
pub(super) fn of_game(process: &Process) -> Option<String> {
    let program = process.program.as_ref().map(|path| path.to_string_lossy().into_owned());
    let written = process.arguments.iter().cloned().chain(program);
    let mut folders = written.filter_map(|path| {
        let path = path.replace('\\', "/");
        let (_, below) = path.split_once("common/")?;
        below.split_once('/').map(|(folder, _)| folder.to_owned())
    });
    // What games run on lies there too.
    let is_tool =
        |name: &String| ["Proton", "SteamLinuxRuntime", "Steamworks"].iter().any(|tool| name.starts_with(tool));
    folders.rfind(|name| !name.is_empty() && !is_tool(name))
}

/// The name of the program's file, or what the process calls itself where that may not be read.
fn file_name(process: &Process) -> String {
    let windows = process.arguments.first().filter(|argument| argument.to_lowercase().ends_with(".exe"));
    if let Some(path) = windows {
        let name = path.rsplit(['\\', '/']).next().unwrap_or(path);
        return name[..name.len() - ".exe".len()].to_owned();
    }
    let name = process.program.as_ref().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    // So it ends when the program was updated while it ran.
    name.map_or_else(|| process.name.clone(), |name| name.trim_end_matches(" (deleted)").to_owned())
}

/// The script that an interpreter was given.
fn script(process: &Process) -> Option<String> {
    let mut rest = process.arguments.iter().skip(1);
    let mut argument =
        rest.find(|argument| !argument.starts_with('-') || ["-jar", "-m"].contains(&argument.as_str()))?;
    if argument.starts_with('-') {
        argument = rest.next()?;
    }
    // A command that was written out (`-c`) is no name.
    if process.arguments.iter().any(|argument| argument == "-c") {
        return None;
    }
    let path = PathBuf::from(argument);
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn called(file: &str) -> Option<String> {
    CALLED.iter().find(|(name, _)| *name == file).map(|(_, called)| (*called).to_owned())
}

/// The name in the desktop file of an application.
fn desktop_name(root: &Path, id: &str) -> Option<String> {
    if id.contains('/') {
        return None;
    }
    let text = APPLICATIONS.iter().find_map(|folder| {
        let path = root.join(folder).join(format!("{id}.desktop"));
        let small = std::fs::metadata(&path).ok()?.len() <= DESKTOP_FILE_MAX;
        small.then(|| std::fs::read_to_string(&path).ok()).flatten()
    })?;
    let name = text.lines().skip_while(|line| line.trim() != "[Desktop Entry]").skip(1);
    let name = name.take_while(|line| !line.starts_with('[')).find_map(|line| line.strip_prefix("Name="))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
